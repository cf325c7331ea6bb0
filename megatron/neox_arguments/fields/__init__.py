"""The keys of the settings, one file per group. `arguments.py` puts them together."""

"""Settings: YAML texts in, one checked `NeoXArgs` out. Imports neither torch nor DeepSpeed."""

"""Older spellings of keys. They go no deeper into the program; the table is shared with the library."""

from sepllm.older_names import OLDER_NAMES, canonical

ALIASES = OLDER_NAMES

__all__ = ["ALIASES", "canonical"]

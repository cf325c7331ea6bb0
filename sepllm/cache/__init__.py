"""The key-value cache that keeps initial tokens, separators and a window."""

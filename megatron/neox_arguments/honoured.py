"""Where each accepted key of GPT-NeoX and SepLLM is read: a file, or what is computed from it."""

HONOURED: dict[str, str] = {}

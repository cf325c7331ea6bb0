"""Separator attention (SepLLM, arXiv 2412.12094) as a library. Importing this package needs no torch."""

from sepllm.config import SepConfig

__all__ = ["SepConfig"]

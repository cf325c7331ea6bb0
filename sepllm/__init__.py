"""Separator attention (SepLLM, arXiv 2412.12094) as a library. Importing this package needs no torch."""

from typing import TYPE_CHECKING, Any

from sepllm.config import SepConfig

if TYPE_CHECKING:
    from sepllm.cache.sep_cache import SepCache
    from sepllm.hf.enable import enable
    from sepllm.streaming.score import stream_nll

__all__ = ["SepCache", "SepConfig", "enable", "stream_nll"]

# Names that need torch and transformers, loaded when they are first asked for.
_LATER = {"SepCache": "sepllm.cache.sep_cache", "enable": "sepllm.hf.enable", "stream_nll": "sepllm.streaming.score"}


def __getattr__(name: str) -> Any:
    if name not in _LATER:
        raise AttributeError(f"module 'sepllm' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_LATER[name]), name)

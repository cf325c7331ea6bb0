"""Errors of the separator-attention library, worded for the person who has to act on them."""

import difflib
from collections.abc import Iterable


class SepLLMError(ValueError):
    """A mistake of the caller: what was found, what was expected, what to do next."""


class ConfigError(SepLLMError):
    """A setting that cannot be meant as written."""


class ShapeError(SepLLMError):
    """A tensor whose shape or type does not fit the others."""


class UnsupportedError(SepLLMError):
    """A combination that this path cannot compute; it never falls back to another one in silence."""


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """A sentence offering the nearest known names, or an empty string when nothing is near."""
    near = difflib.get_close_matches(name, list(known), n=3, cutoff=0.6)
    return f"Did you mean {' or '.join(repr(word) for word in near)}?" if near else ""

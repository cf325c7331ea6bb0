"""Separators: from strings to token ids of a tokenizer, and from token ids to flags. Torch loads on use."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

from sepllm.errors import ConfigError

if TYPE_CHECKING:
    from torch import Tensor


def separator_ids(encode: Callable[[str], Sequence[int]], strings: Iterable[str]) -> list[int]:
    """The token id of every separator string, in order, without repeats.

    encode: text -> token ids, without special tokens.
    strings: a list of strings, or one string of which every character is a separator.
    Raises ConfigError naming the string that is not a single token.
    """
    found: dict[int, None] = {}
    for text in strings:
        ids = [int(token) for token in encode(text)]
        if len(ids) != 1:
            raise ConfigError(
                f"The separator {text!r} is {len(ids)} tokens for this tokenizer ({ids}), expected exactly 1. "
                "Leave it out, or give token ids as separators."
            )
        found[ids[0]] = None
    return list(found)


def tokenizer_encoder(tokenizer: Any) -> Callable[[str], list[int]]:
    """text -> token ids without special tokens, for the kinds of tokenizer people have.

    tokenizer: of transformers or tokenizers (has encode), of this project (tokenize gives ids), or a function.
    """
    if hasattr(tokenizer, "encode"):

        def encode(text: str) -> list[int]:
            ids = tokenizer.encode(text, add_special_tokens=False)
            return list(getattr(ids, "ids", ids))

        return encode
    if hasattr(tokenizer, "tokenize"):
        return lambda text: list(tokenizer.tokenize(text))
    if callable(tokenizer):
        return lambda text: list(tokenizer(text))
    raise ConfigError(
        f"{type(tokenizer).__name__} is no tokenizer: it has neither encode nor tokenize. "
        "Give a tokenizer of transformers or tokenizers, or a function text -> token ids."
    )


def is_separator(token_ids: Tensor, separators: Iterable[int]) -> Tensor:
    """True where a token is a separator. token_ids: integers of any shape -> bool of that shape."""
    from sepllm.attention.rule import separator_flags

    return separator_flags(token_ids, tuple(separators))

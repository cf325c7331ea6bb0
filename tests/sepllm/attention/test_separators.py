"""Separators: each string one token, for every kind of tokenizer."""

from typing import Any

import pytest
import torch

from sepllm.attention.separators import is_separator, separator_ids, tokenizer_encoder
from sepllm.errors import ConfigError
from tests.helpers.shared import shared_folder


def test_ids_in_order_without_repeats() -> None:
    assert separator_ids(lambda text: [len(text)], ["a", "bbb", "cc", "d"]) == [1, 3, 2]


def test_a_string_of_several_tokens_is_named() -> None:
    with pytest.raises(ConfigError, match=r"' ; '.*2 tokens.*\[4, 5\]"):
        separator_ids(lambda text: [4, 5] if len(text) > 1 else [1], [".", " ; "])
    with pytest.raises(ConfigError, match="0 tokens"):
        separator_ids(lambda text: [], ["."])


def test_is_separator_keeps_the_shape() -> None:
    ids = torch.tensor([[1, 2], [3, 1]])
    assert is_separator(ids, [1, 7]).tolist() == [[True, False], [False, True]]
    assert is_separator(ids.int(), []).tolist() == [[False, False], [False, False]]


class _LikeTransformers:
    def encode(self, text: str, add_special_tokens: bool = True) -> list[int]:
        return [0, ord(text)] if add_special_tokens else [ord(text)]

    def tokenize(self, text: str) -> list[str]:
        return [text]


class _LikeOurs:
    def tokenize(self, text: str) -> list[int]:
        return [ord(text)]


@pytest.mark.parametrize("tokenizer", [_LikeTransformers(), _LikeOurs(), lambda text: [ord(text)]])
def test_kinds_of_tokenizers(tokenizer: Any) -> None:
    assert separator_ids(tokenizer_encoder(tokenizer), ".") == [46]


def test_what_is_no_tokenizer_is_named() -> None:
    with pytest.raises(ConfigError, match="int is no tokenizer"):
        tokenizer_encoder(3)


def test_ids_of_pythias_tokenizer() -> None:
    tokenizers = pytest.importorskip("tokenizers")
    tokenizer = tokenizers.Tokenizer.from_file(str(shared_folder("data", "20B_tokenizer.json")))
    assert separator_ids(tokenizer_encoder(tokenizer), ".,?!;: \t\n") == [15, 13, 32, 2, 28, 27, 209, 186, 187]

"""Tokenizers by GPT-NeoX's names, and the embedding size that a vocabulary needs. No torch, no network."""

import math
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Protocol

from megatron.errors import SettingsError
from megatron.tokenizer.char_level import CharLevelTokenizer
from megatron.tokenizer.hugging_face import byte_level_bpe, tokenizer_json
from megatron.tokenizer.sentence_piece import SentencePieceTokenizer
from megatron.tokenizer.tiktoken_file import TiktokenTokenizer
from megatron.tokenizer.vocabulary_file import required_file

PathLike = str | Path


class Tokenizer(Protocol):
    """Text to token ids and back.

    vocab_size: one more than the largest id.  eod: id that ends a document.
    fingerprint: sha256 (hex) of the vocabulary files; equal fingerprints give equal ids.
    """

    name: str
    vocab_size: int
    eod: int
    fingerprint: str

    def tokenize(self, text: str) -> list[int]: ...

    def tokenize_batch(self, texts: Sequence[str]) -> list[list[int]]: ...

    def detokenize(self, ids: Iterable[int], *, keep_special: bool = False) -> str:
        """Ids to text; special tokens (`<|endoftext|>` and its like) are left out unless `keep_special`."""
        ...


def build_tokenizer(tokenizer_type: str, vocab_file: PathLike | None, merge_file: PathLike | None = None) -> Tokenizer:
    """The tokenizer that the settings of the same names describe.

    SettingsError: unknown type, missing file or package.  DataError: a damaged file, or no `<|endoftext|>` in it.
    """
    if tokenizer_type not in TOKENIZER_TYPES:
        raise SettingsError(
            f"tokenizer_type: {tokenizer_type!r} is unknown; choose one of {', '.join(TOKENIZER_TYPES)}."
        )
    return TOKENIZER_TYPES[tokenizer_type](tokenizer_type, vocab_file, merge_file)


def padded_vocab_size(vocab_size: int, divisible_by: int, tp_size: int) -> int:
    """`vocab_size` rounded up so that `make_vocab_size_divisible_by` and the tensor ranks both divide it."""
    step = math.lcm(divisible_by, tp_size)
    return -(-vocab_size // step) * step


def _hugging_face(kind: str, vocab_file: PathLike | None, merge_file: PathLike | None) -> Tokenizer:
    if vocab_file is not None and (Path(vocab_file) / "tokenizer.json").is_file():
        vocab_file = Path(vocab_file) / "tokenizer.json"
    return tokenizer_json(required_file(vocab_file, "vocab_file", kind))


def _gpt2_bpe(kind: str, vocab_file: PathLike | None, merge_file: PathLike | None) -> Tokenizer:
    return byte_level_bpe(required_file(vocab_file, "vocab_file", kind), required_file(merge_file, "merge_file", kind))


def _hugging_face_gpt2(kind: str, vocab_file: PathLike | None, merge_file: PathLike | None) -> Tokenizer:
    return _gpt2_bpe(kind, vocab_file, merge_file) if merge_file else _hugging_face(kind, vocab_file, None)


def _char_level(kind: str, vocab_file: PathLike | None, merge_file: PathLike | None) -> Tokenizer:
    return CharLevelTokenizer()


def _sentence_piece(kind: str, vocab_file: PathLike | None, merge_file: PathLike | None) -> Tokenizer:
    return SentencePieceTokenizer(required_file(vocab_file, "vocab_file", kind))


def _tiktoken(kind: str, vocab_file: PathLike | None, merge_file: PathLike | None) -> Tokenizer:
    return TiktokenTokenizer(required_file(vocab_file, "vocab_file", kind))


TOKENIZER_TYPES: dict[str, Callable[[str, PathLike | None, PathLike | None], Tokenizer]] = {
    "HFTokenizer": _hugging_face,
    "HFGPT2Tokenizer": _hugging_face_gpt2,
    "GPT2BPETokenizer": _gpt2_bpe,
    "CharLevelTokenizer": _char_level,
    "SPMTokenizer": _sentence_piece,
    "TiktokenTokenizer": _tiktoken,
}

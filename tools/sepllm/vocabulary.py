"""Any Hugging Face tokenizer as two things: ids of a text, and what each entry of the vocabulary looks like in text."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from megatron.errors import SettingsError

_ANCHOR = "a"  # a token is looked at after another one, because some tokenizers drop a blank at the very start


@dataclass(frozen=True)
class Vocabulary:
    """encode: text -> ids without special tokens; pieces: text of every ordinary token, by id."""

    encode: Callable[[str], list[int]]
    pieces: dict[int, str]


def read_vocabulary(path: Path) -> Vocabulary:
    """path: a tokenizer.json, or a folder with one or with whatever transformers can load.

    Raises SettingsError when it is neither.
    """
    file = path / "tokenizer.json" if path.is_dir() else path
    if file.is_file():
        return _from_json(file)
    if not path.is_dir():
        raise SettingsError(f"--tokenizer: {path} does not exist; expected a tokenizer.json or a tokenizer's folder.")
    return _from_transformers(path)


def _from_json(file: Path) -> Vocabulary:
    from tokenizers import Tokenizer

    try:
        tokenizer = Tokenizer.from_file(str(file))
    except Exception as error:  # tokenizers raises the bare class
        raise SettingsError(f"--tokenizer: {file} is no tokenizer.json: {error}.") from None
    special = {number for number, token in tokenizer.get_added_tokens_decoder().items() if token.special}
    ids = sorted(set(tokenizer.get_vocab(with_added_tokens=True).values()) - special)
    pieces = _pieces(ids, tokenizer.encode(_ANCHOR, add_special_tokens=False).ids, tokenizer.decode_batch)
    return Vocabulary(lambda text: tokenizer.encode(text, add_special_tokens=False).ids, pieces)


def _from_transformers(folder: Path) -> Vocabulary:
    try:
        from transformers import AutoTokenizer
    except ImportError:
        raise SettingsError(
            f"--tokenizer: {folder} has no tokenizer.json; to read it, pip install transformers."
        ) from None
    try:
        tokenizer = AutoTokenizer.from_pretrained(str(folder), local_files_only=True)
    except (OSError, ValueError) as error:
        raise SettingsError(f"--tokenizer: transformers cannot load {folder}: {error}") from None
    ids = sorted(set(tokenizer.get_vocab().values()) - set(tokenizer.all_special_ids))

    def decode(rows: list[list[int]]) -> list[str]:
        return [tokenizer.decode(row, clean_up_tokenization_spaces=False) for row in rows]

    def encode(text: str) -> list[int]:
        found: list[int] = tokenizer.encode(text, add_special_tokens=False)
        return found

    return Vocabulary(encode, _pieces(ids, encode(_ANCHOR), decode))


def _pieces(ids: list[int], anchor: list[int], decode: Callable[[list[list[int]]], list[str]]) -> dict[int, str]:
    before = decode([anchor])[0]
    texts = decode([[*anchor, number] for number in ids])
    return {number: text.removeprefix(before) for number, text in zip(ids, texts, strict=True)}

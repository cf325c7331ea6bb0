"""From a raw document to its texts, one per JSON key, or to the reason why it cannot be used."""

import json
from codecs import BOM_UTF8
from collections.abc import Sequence
from typing import Any

from megatron.data.text_files import RawDocument


class UnusableDocument(ValueError):
    """This document is left out; the text says why. offset: the byte of the document where the trouble is."""

    def __init__(self, reason: str, offset: int = 0) -> None:
        super().__init__(reason)
        self.offset = offset


def texts_of(document: RawDocument, keys: Sequence[str]) -> list[str] | None:
    """The text under each of `keys`, in their order; None for a blank line.

    A JSON line is an object, or a bare string, which stands for the first key. A list of strings is joined by blank
    lines. UnusableDocument for everything else, empty texts included.
    """
    record = record_of(document, keys[0])
    return None if record is None else [_text_under(record, key) for key in keys]


def record_of(document: RawDocument, bare_key: str) -> dict[str, Any] | None:
    """The object of a JSON line or the row of a table; None for a blank line.

    Plain text, and a line that is a bare string, count as the text under `bare_key`. UnusableDocument with the reason.
    """
    if document.damage:
        raise UnusableDocument(document.damage)
    if isinstance(document.data, dict):
        return document.data
    text = _decode(document.data, first_line=document.line == 1)
    if not document.is_json:
        return {bare_key: text}
    text = text.rstrip()  # a cut line then says so, instead of complaining of its newline
    if not text:
        return None
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        before = len(BOM_UTF8) if document.line == 1 and document.data.startswith(BOM_UTF8) else 0
        raise UnusableDocument(f"not JSON: {error.msg}", before + len(text[: error.pos].encode("utf-8"))) from error
    except ValueError as error:  # a number of more digits than Python converts
        raise UnusableDocument(f"not JSON: {error}") from error
    except RecursionError as error:
        raise UnusableDocument("JSON nested too deeply") from error
    if isinstance(value, str):
        value = {bare_key: value}
    if not isinstance(value, dict):
        raise UnusableDocument(f"expected a JSON object or a string, found {type(value).__name__}")
    return value


def _decode(data: bytes, *, first_line: bool) -> str:
    try:
        # Only a file's start can carry a byte order mark; elsewhere U+FEFF is text.
        return data.decode("utf-8-sig" if first_line else "utf-8")
    except UnicodeDecodeError as error:
        raise UnusableDocument(f"not UTF-8: {error.reason}", error.start) from error


def _text_under(value: dict[str, object], key: str) -> str:
    if key not in value:
        raise UnusableDocument(f"no key {key!r}; the keys are {', '.join(map(repr, value)) or 'none'}")
    text = value[key]
    if isinstance(text, list) and all(isinstance(part, str) for part in text):
        text = "\n\n".join(text)
    if isinstance(text, bytes):  # from a table: JSON knows no bytes
        text = _decode(text, first_line=False)
    if not isinstance(text, str):
        raise UnusableDocument(
            f"key {key!r} holds {'null' if text is None else type(text).__name__}, expected a string"
        )
    return _checked(text, key)


def _checked(text: str, key: str) -> str:
    if not text:
        raise UnusableDocument(f"the text under {key!r} is empty")
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise UnusableDocument(f"half a surrogate pair at character {error.start}") from error
    return text

"""What a line means, and the reason given for each that means nothing."""

import json

import pytest

from megatron.data.text_files import RawDocument
from megatron.data.text_records import UnusableDocument, texts_of


def line(data: bytes, number: int = 2) -> RawDocument:
    return RawDocument("a.jsonl", number, 0, data, is_json=True)


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b'{"text": "a", "meta": 1}\r\n', "a"),
        (b'"a bare string"', "a bare string"),
        (b'{"text": ["one", "two"]}', "one\n\ntwo"),
        (b'{"text": " "}', " "),
        ('{"text": "\N{SNOWMAN}\\u2603"}'.encode(), "\N{SNOWMAN}\N{SNOWMAN}"),
        (b'{"text": "\\ud83d\\ude00"}', "\N{GRINNING FACE}"),
    ],
)
def test_texts(data: bytes, text: str) -> None:
    assert texts_of(line(data), ["text"]) == [text]


def test_blank_lines_are_nothing() -> None:
    assert texts_of(line(b" \r\n"), ["text"]) is None


def test_a_byte_order_mark_belongs_to_the_first_line_only() -> None:
    assert texts_of(line(b'\xef\xbb\xbf{"text": "a"}', 1), ["text"]) == ["a"]
    with pytest.raises(UnusableDocument, match="not JSON"):
        texts_of(line(b'\xef\xbb\xbf{"text": "a"}', 2), ["text"])


def test_several_keys_keep_their_order() -> None:
    assert texts_of(line(json.dumps({"b": "2", "a": "1"}).encode()), ["a", "b"]) == ["1", "2"]


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b'{"text": "\xff"}', "not UTF-8: invalid start byte"),
        (b'{"text": "cut', "not JSON: Unterminated string"),
        (b"[" * 100_000, "JSON nested too deeply|not JSON"),
        (b"{'text': 'a'}", "not JSON"),
        (b"[1, 2]", "expected a JSON object or a string, found list"),
        (b'{"txet": "a", "id": 1}', "no key 'text'; the keys are 'txet', 'id'"),
        (b"{}", "no key 'text'; the keys are none"),
        (b'{"text": null}', "key 'text' holds null, expected a string"),
        (b'{"text": 3}', "key 'text' holds int"),
        (b'{"text": ["a", 3]}', "key 'text' holds list"),
        (b'{"text": ""}', "the text under 'text' is empty"),
        (b'{"text": []}', "the text under 'text' is empty"),
        (b'{"text": "a\\ud83d"}', "half a surrogate pair at character 1"),
    ],
)
def test_reasons(data: bytes, reason: str) -> None:
    with pytest.raises(UnusableDocument, match=reason):
        texts_of(line(data), ["text"])


def test_damage_is_the_reason() -> None:
    with pytest.raises(UnusableDocument, match="cut"):
        texts_of(RawDocument("a", 1, 0, b"", True, "cut"), ["text"])


@pytest.mark.parametrize(
    ("data", "offset"),
    [
        (b'{"text": "\xff"}', 10),
        (b'{"text": "\xc3\xa9", oops}', 15),
        (b'\xef\xbb\xbf{"a" 1}', 8),
        (b'{"text": null}', 0),
    ],
)
def test_the_byte_of_the_trouble(data: bytes, offset: int) -> None:
    with pytest.raises(UnusableDocument) as caught:
        texts_of(line(data, 1), ["text"])
    assert caught.value.offset == offset


def test_rows_of_tables() -> None:
    assert texts_of(RawDocument("a", 1, None, {"a": "x", "b": b"\xc3\xa9"}), ["b", "a"]) == ["\u00e9", "x"]
    with pytest.raises(UnusableDocument, match="not UTF-8"):
        texts_of(RawDocument("a", 1, None, {"a": b"\xff"}), ["a"])
    with pytest.raises(UnusableDocument, match="holds null"):
        texts_of(RawDocument("a", 1, None, {"a": None}), ["a"])

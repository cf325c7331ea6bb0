"""JSONL that is broken in every way seen in the wild: the good lines are all there, the bad ones counted and placed."""

import gzip
import json
import random
from collections.abc import Callable
from pathlib import Path

import pytest

from megatron.data.encode_documents import EncodeSettings
from megatron.data.indexed_dataset import IndexedDataset
from megatron.data.preprocess import Progress, preprocess
from megatron.tokenizer.tokenizer import build_tokenizer
from tests.helpers.tiny_tokenizer import write_tokenizer_json

GOOD = [b'{"text": "first"}\n', b'{"text": "last"}\n']
# What stands between two good lines -> (texts found there, [(line, byte in the line, reason)]).
MIDDLES: dict[str, tuple[bytes, list[bytes], list[tuple[int, int, str]]]] = {
    "not UTF-8": (b'{"text": "a\xff"}\n', [], [(2, 11, "not UTF-8")]),
    "UTF-16": ('{"text": "a"}\n'.encode("utf-16") + b"\n", [], [(2, 0, "not UTF-8"), (3, 0, "not JSON")]),
    "byte order mark inside": (b'\xef\xbb\xbf{"text": "a"}\n', [], [(2, 0, "not JSON")]),
    "CRLF": (b'{"text": "a"}\r\n{"text": "b"}\r\n', [b"a", b"b"], []),
    "lone carriage return": (b'{"text": "a"}\r{"text": "b"}\n', [], [(2, 14, "not JSON: Extra data")]),
    "cut line": (b'{"text": "a", "me\n', [], [(2, 14, "not JSON: Unterminated string")]),
    "two lines in one": (b'{"text": "a"}{"text": "b"}\n', [], [(2, 13, "not JSON: Extra data")]),
    "missing key": (b'{"txt": "a"}\n', [], [(2, 0, "no key 'text'; the keys are 'txt'")]),
    "null": (b'{"text": null}\n', [], [(2, 0, "holds null")]),
    "a number": (b'{"text": 7}\n', [], [(2, 0, "holds int")]),
    "empty text": (b'{"text": ""}\n', [], [(2, 0, "is empty")]),
    "an array": (b'[{"text": "a"}]\n', [], [(2, 0, "found list")]),
    "Python, not JSON": (b"{'text': 'a'}\n", [], [(2, 1, "not JSON")]),
    "control character": (b'{"text": "a\x01b"}\n', [], [(2, 11, "not JSON: Invalid control")]),
    "half a surrogate pair": (b'{"text": "\\ud800"}\n', [], [(2, 0, "half a surrogate pair")]),
    "NUL bytes of a crashed disk": (b"\0" * 5000 + b"\n", [], [(2, 0, "not JSON")]),
    "blank lines": (b'\n   \n\r\n{"text": "a"}\n', [b"a"], []),
    "nested beyond reason": (b"[" * 100_000 + b"\n", [], [(2, 0, "")]),
    "a number without end": (b'{"text": "a", "n": ' + b"9" * 10_000 + b"}\n", [], [(2, 0, "not JSON")]),
    "a NUL in the text": (b'{"text": "a\\u0000b"}\n', [b"a\0b"], []),
}


def settings() -> EncodeSettings:
    return EncodeSettings("CharLevelTokenizer", None, None, ("text",), append_eod=False, ftfy=False)


def outcome(path: Path, workers: int = 1) -> tuple[list[bytes], list[str], Progress]:
    """The texts in the data set, the lines of the rejects file, the counts."""
    result = preprocess([path], str(path.with_name("out")), settings(), workers)
    dataset = IndexedDataset(path.with_name("out_text_document"))
    texts = [bytes(dataset.document(number).tolist()) for number in range(dataset.num_documents)]
    rejects = result.rejects_path.read_text().splitlines() if result.rejects_path else []
    assert (result.documents, result.rejected) == (len(texts), len(rejects))
    return texts, rejects, result


@pytest.mark.parametrize("kind", MIDDLES)
def test_between_good_lines(tmp_path: Path, kind: str) -> None:
    middle, texts, places = MIDDLES[kind]
    path = tmp_path / "a.jsonl"
    path.write_bytes(GOOD[0] + middle + GOOD[1])
    found, rejects, _ = outcome(path)
    assert found == [b"first", *texts, b"last"]
    assert len(rejects) == len(places)
    starts = [0]
    for line in path.read_bytes().split(b"\n"):
        starts.append(starts[-1] + len(line) + 1)
    for reject, (line_number, offset, reason) in zip(rejects, places, strict=True):
        assert reject.startswith(f"{path}:{line_number}:{starts[line_number - 1] + offset}: ")
        assert reason in reject


def test_byte_order_mark_at_the_start_and_no_newline_at_the_end(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(b"\xef\xbb\xbf" + GOOD[0] + GOOD[1].rstrip())
    assert outcome(path)[:2] == ([b"first", b"last"], [])


def test_one_line_of_a_hundred_megabytes(tmp_path: Path) -> None:
    pytest.importorskip("gigatoken")
    vocabulary = str(write_tokenizer_json(tmp_path / "tokenizer.json"))
    repeats = 100_000_000 // len(" The lazy dog")
    path = tmp_path / "a.jsonl"
    long = b'{"text": "' + b" The lazy dog" * repeats + b'"}\n'
    path.write_bytes(GOOD[0] + long + b"{\n" + GOOD[1])
    given = EncodeSettings("HFTokenizer", vocabulary, None, ("text",), append_eod=False, ftfy=False)
    result = preprocess([path], str(tmp_path / "out"), given, workers=1)
    dataset = IndexedDataset(tmp_path / "out_text_document")
    ids = build_tokenizer("HFTokenizer", vocabulary).tokenize(" The lazy dog")
    assert dataset.num_documents == 3
    assert dataset.sizes[1] == repeats * len(ids)
    assert (dataset.document(1).reshape(repeats, len(ids)) == ids).all()
    assert result.rejected == 1
    assert result.first_reject.startswith(f"{path}:3:{len(GOOD[0]) + len(long) + 1}: not JSON")


def pack_gz(data: bytes) -> bytes:
    return gzip.compress(data)


def pack_zst(data: bytes) -> bytes:
    return pytest.importorskip("zstandard").ZstdCompressor(write_checksum=True).compress(data)  # as the command zstd


@pytest.mark.parametrize(("ending", "pack"), [(".gz", pack_gz), (".zst", pack_zst)])
@pytest.mark.parametrize("damage", ["cut", "overwritten"])
def test_a_packed_file_that_is_cut_or_overwritten(
    tmp_path: Path, ending: str, pack: Callable[[bytes], bytes], damage: str
) -> None:
    draw = random.Random(4)
    lines = [json.dumps({"text": f"{draw.getrandbits(800):0200x}"}).encode() + b"\n" for _ in range(10_000)]
    packed = pack(b"".join(lines))
    half = len(packed) // 2
    path = tmp_path / f"a.jsonl{ending}"
    path.write_bytes(packed[:half] if damage == "cut" else packed[:half] + b"\xff" * 3000 + packed[half + 3000 :])
    texts, rejects, _ = outcome(path)
    assert len(texts) > 2000
    # A wrong byte may pass the unpacker unseen before it is noticed, so only a cut file is known to the last line.
    known = len(texts) if damage == "cut" else 4000
    assert [json.dumps({"text": text.decode()}).encode() + b"\n" for text in texts[:known]] == lines[:known]
    assert "unreadable from here to the end of the file" in rejects[-1]
    if damage == "cut":
        line = int(rejects[-1].split(":")[1])
        assert line - 1 in (len(texts), len(texts) + 1)


@pytest.mark.multiprocess
def test_everything_at_once_is_counted_the_same_by_any_number_of_workers(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(b"".join(GOOD[0] + middle for middle, _, _ in MIDDLES.values()) * 20)
    one, many = outcome(path), outcome(path, workers=3)
    assert one[:2] == many[:2]
    assert len(one[0]) == 20 * sum(1 + len(texts) for _, texts, _ in MIDDLES.values())
    assert len(one[1]) == 20 * sum(len(places) for _, _, places in MIDDLES.values())

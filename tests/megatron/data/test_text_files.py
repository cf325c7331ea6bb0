"""Text files of every kind and packing, and what damage in them turns into."""

import gzip
from pathlib import Path

import pytest

from megatron.data import text_files
from megatron.data.text_files import Position, RawDocument, TextFiles

LINES = [b'{"text": "one"}\n', b"\n", b'{"text": "t\xc3\xa4o"}\r\n', b'{"text": "cut']


def pack(kind: str, data: bytes) -> bytes:
    if kind == ".zst":
        return pytest.importorskip("zstandard").ZstdCompressor().compress(data)
    return gzip.compress(data) if kind == ".gz" else data


def read(path: Path) -> list[RawDocument]:
    return list(TextFiles([path]).documents())


@pytest.mark.parametrize("packing", ["", ".gz", ".zst"])
def test_lines_and_whole_files(tmp_path: Path, packing: str) -> None:
    lines, whole = tmp_path / f"a.jsonl{packing}", tmp_path / f"b.txt{packing}"
    lines.write_bytes(pack(packing, b"".join(LINES)))
    whole.write_bytes(pack(packing, b"".join(LINES)))
    files = TextFiles([lines, whole])
    blocks = list(files.blocks())
    documents = [document for block in blocks for document in block.documents()]
    assert [document.data for document in documents] == [*LINES, b"".join(LINES)]
    assert [(document.line, document.is_json) for document in documents] == [
        *((n, True) for n in (1, 2, 3, 4)),
        (1, False),
    ]
    assert blocks[-1].read_bytes == files.total_bytes == lines.stat().st_size + whole.stat().st_size
    assert not any(document.damage for document in documents)


@pytest.mark.parametrize("packing", [".gz", ".zst"])
def test_several_packed_parts_in_one_file(tmp_path: Path, packing: str) -> None:
    path = tmp_path / f"a.jsonl{packing}"
    path.write_bytes(pack(packing, b"1\n2") + pack(packing, b"2\n3\n"))
    assert [document.data for document in read(path)] == [b"1\n", b"22\n", b"3\n"]


@pytest.mark.parametrize("packing", [".gz", ".zst"])
def test_a_cut_or_damaged_packed_file_is_placed_after_what_could_be_read(tmp_path: Path, packing: str) -> None:
    import random

    draw = random.Random(1)
    data = b"".join(b"%030d\n" % draw.getrandbits(99) for _ in range(60000))
    path = tmp_path / f"a.jsonl{packing}"
    packed = pack(packing, data)
    path.write_bytes(packed[: len(packed) // 2])
    *good, last = read(path)
    assert last.damage
    text = b"".join(document.data for document in good if isinstance(document.data, bytes))
    assert len(text) > len(data) // 4
    assert data.startswith(text)
    assert (last.line, last.byte) == (len(good) + 1, len(text))
    path.write_bytes(packed[: len(packed) // 2] + b"garbage" * 100)
    assert read(path)[-1].damage
    path.write_bytes(b"no packed data at all")
    (only,) = read(path)
    assert only.damage


def test_empty_files_are_noted(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").touch()
    (document,) = read(tmp_path / "a.jsonl")
    assert document.damage == "the file is empty"


@pytest.mark.parametrize("packing", ["", ".gz", ".zst"])
@pytest.mark.parametrize("block_bytes", [1, 7, 1000])
def test_reading_goes_on_from_the_end_of_any_block(
    tmp_path: Path, packing: str, block_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(text_files, "BLOCK_BYTES", block_bytes)
    first, second = tmp_path / f"a.jsonl{packing}", tmp_path / f"b.jsonl{packing}"
    first.write_bytes(pack(packing, b"one\n\ntwo\r\n" + b"three" * 9 + b"\n4"))
    second.write_bytes(pack(packing, b"five\n"))
    files = TextFiles([first, second])
    blocks = list(files.blocks())
    everything = list(files.documents())
    content = b"one\n\ntwo\r\n" + b"three" * 9 + b"\n4"
    assert [(d.line, d.byte, d.data) for d in everything] == [
        (1, 0, b"one\n"), (2, 4, b"\n"), (3, 5, b"two\r\n"), (4, 10, b"three" * 9 + b"\n"), (5, 56, b"4"),
        (1, 0, b"five\n"),
    ]  # fmt: skip
    assert content[56:] == b"4"
    for number, block in enumerate(blocks):
        done = sum(len(list(earlier.documents())) for earlier in blocks[: number + 1])
        rest = [document for later in files.blocks(block.end) for document in later.documents()]
        assert rest == everything[done:]


def test_a_line_without_end_is_skipped_in_constant_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text_files, "BLOCK_BYTES", 16)
    monkeypatch.setattr(text_files, "MAX_DOCUMENT_BYTES", 100)
    path = tmp_path / "a.jsonl"
    path.write_bytes(b"one\n" + b"x" * 300 + b"\ntwo\n" + b"y" * 90 + b"\n" + b"z" * 200)
    documents = read(path)
    assert [(d.line, d.byte, d.data[:3]) for d in documents] == [
        (1, 0, b"one"), (2, 4, b""), (3, 305, b"two"), (4, 309, b"yyy"), (5, 400, b""),
    ]  # fmt: skip
    assert documents[1].damage == "a document of 301 bytes; at most 100 are taken"
    assert documents[4].damage == "a document of 200 bytes; at most 100 are taken"
    whole = tmp_path / "b.txt"
    whole.write_bytes(b"x" * 101)
    assert [d.damage for d in read(whole)] == ["a document of 101 bytes; at most 100 are taken"]


def test_places() -> None:
    assert RawDocument("a.jsonl", 3, 40, b"").place(2) == "a.jsonl:3:42"
    assert RawDocument("a.parquet", 3, None, {}).place(2) == "a.parquet:row 3"
    assert Position() == Position(0, 0, 0)

"""Text files of every kind and packing, and what damage in them turns into."""

import gzip
from pathlib import Path

import pytest

from megatron.data.text_files import RawDocument, TextFiles, find_text_files
from megatron.errors import DataError

LINES = [b'{"text": "one"}\n', b"\n", b'{"text": "t\xc3\xa4o"}\r\n', b'{"text": "cut']


def pack(kind: str, data: bytes) -> bytes:
    if kind == ".zst":
        return pytest.importorskip("zstandard").ZstdCompressor().compress(data)
    return gzip.compress(data) if kind == ".gz" else data


def read(path: Path) -> list[RawDocument]:
    return list(TextFiles([path]))


@pytest.mark.parametrize("packing", ["", ".gz", ".zst"])
def test_lines_and_whole_files(tmp_path: Path, packing: str) -> None:
    lines, whole = tmp_path / f"a.jsonl{packing}", tmp_path / f"b.txt{packing}"
    lines.write_bytes(pack(packing, b"".join(LINES)))
    whole.write_bytes(pack(packing, b"".join(LINES)))
    files = TextFiles([lines, whole])
    documents = list(files)
    assert [document.data for document in documents] == [*LINES, b"".join(LINES)]
    assert [(document.line, document.is_json) for document in documents] == [
        *((n, True) for n in (1, 2, 3, 4)),
        (1, False),
    ]
    assert files.bytes_read == files.total_bytes == lines.stat().st_size + whole.stat().st_size
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
    assert last.line == len(good) + 1 > 1000
    assert data.startswith(b"".join(document.data for document in good))
    path.write_bytes(packed[: len(packed) // 2] + b"garbage" * 100)
    assert read(path)[-1].damage
    path.write_bytes(b"no packed data at all")
    (only,) = read(path)
    assert only.damage


def test_empty_files_are_noted(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").touch()
    (document,) = read(tmp_path / "a.jsonl")
    assert document.damage == "the file is empty"


def test_inputs_are_files_folders_and_comma_lists(tmp_path: Path) -> None:
    for name in ("b.jsonl", "a.txt", "c.jsonl.gz", "notes.md", "x,y.jsonl"):
        (tmp_path / name).touch()
    b, comma = str(tmp_path / "b.jsonl"), str(tmp_path / "x,y.jsonl")
    names = [path.name for path in find_text_files([f"{b},{tmp_path}", comma])]
    assert names == ["b.jsonl", "a.txt", "b.jsonl", "c.jsonl.gz", "x,y.jsonl", "x,y.jsonl"]


def test_inputs_that_cannot_be_meant(tmp_path: Path) -> None:
    (tmp_path / "corpus.jsonl").touch()
    (tmp_path / "corpus.pdf").touch()
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"corpsu\.jsonl does not exist\. Did you mean .*corpus\.jsonl\?"):
        find_text_files([str(tmp_path / "corpsu.jsonl")])
    with pytest.raises(DataError, match=r"corpus\.pdf has an unknown ending; expected \.jsonl"):
        find_text_files([str(tmp_path / "corpus.pdf")])
    with pytest.raises(DataError, match="no text files in the folder"):
        find_text_files([str(tmp_path / "empty")])
    with pytest.raises(DataError, match=r"nowhere.*does not exist"):
        find_text_files([str(tmp_path / "nowhere" / "a.jsonl")])

"""Damage of every kind to an index is refused at opening, with what was expected and what was found."""

import io
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from megatron.data import index_file
from megatron.data.index_file import HEADER, MAGIC
from megatron.data.indexed_dataset import IndexedDataset, IndexedDatasetWriter
from megatron.errors import DataError

SIZES = [3, 1, 0, 2]


@pytest.fixture
def prefix(tmp_path: Path) -> Path:
    with IndexedDatasetWriter(tmp_path / "set", vocab_size=300) as writer:
        for size in SIZES:
            writer.add_document(list(range(size)))
    return tmp_path / "set"


def poke(prefix: Path, offset: int, new: bytes) -> None:
    """Overwrite bytes of the index."""
    path = Path(f"{prefix}.idx")
    data = bytearray(path.read_bytes())
    data[offset : offset + len(new)] = new
    path.write_bytes(data)


SIZES_AT, POINTERS_AT, DOCUMENTS_AT = 34, 34 + 4 * 4, 34 + 12 * 4


def test_layout_is_the_published_one(prefix: Path) -> None:
    expected = b"MMIDIDX\0\0" + struct.pack("<QBQQ", 1, 8, 4, 5)
    expected += struct.pack("<4i", *SIZES) + struct.pack("<4q", 0, 6, 8, 8) + struct.pack("<5q", 0, 1, 2, 3, 4)
    assert Path(f"{prefix}.idx").read_bytes() == expected
    assert Path(f"{prefix}.bin").read_bytes() == struct.pack("<6H", 0, 1, 2, 0, 0, 1)


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda p: poke(p, 0, b"TNTIDX\0\0"), ["TNTIDX", "set.idx"]),
        (lambda p: poke(p, 0, b"PK\x03\x04"), ["not an idxmap index", "PK", "MMIDIDX"]),
        (lambda p: poke(p, 9, struct.pack("<Q", 2)), ["version 2", "version 1"]),
        (lambda p: poke(p, 17, b"\x09"), ["dtype code 9"]),
        (lambda p: poke(p, 17, b"\x04"), ["set.bin", "expected 24 bytes", "found 12 bytes"]),
        (lambda p: poke(p, 18, struct.pack("<Q", 5)), ["expected 134 bytes", "found 122 bytes"]),
        (lambda p: poke(p, 18, struct.pack("<Q", 1 << 62)), ["4611686018427387904 sequences", "found 122 bytes"]),
        (lambda p: poke(p, SIZES_AT, struct.pack("<i", -3)), ["sequence 0 has -3 tokens"]),
        (lambda p: poke(p, SIZES_AT, struct.pack("<2i", 1, 3)), ["sequence 1", "byte 6", "expected 2"]),
        (lambda p: poke(p, POINTERS_AT + 8, struct.pack("<q", 7)), ["pointer of sequence 1", "byte 7", "expected 6"]),
        (lambda p: poke(p, DOCUMENTS_AT, struct.pack("<q", 1)), ["run from 1 to 4", "expected 0 to 4"]),
        (lambda p: poke(p, DOCUMENTS_AT + 8, struct.pack("<q", 3)), ["document 1 ends before it starts"]),
        (lambda p: poke(p, DOCUMENTS_AT + 32, struct.pack("<q", 9)), ["run from 0 to 9"]),
    ],
)
def test_damage_is_refused_with_its_place(prefix: Path, damage: Callable[[Path], None], words: list[str]) -> None:
    IndexedDataset(prefix)
    damage(prefix)
    with pytest.raises(DataError) as caught:
        IndexedDataset(prefix)
    for word in words:
        assert word in str(caught.value)


@pytest.mark.parametrize("ending", ["idx", "bin"])
def test_cut_at_any_byte_is_refused(prefix: Path, ending: str) -> None:
    path = Path(f"{prefix}.{ending}")
    whole = path.read_bytes()
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        with pytest.raises(DataError, match=f"found {length} bytes|has {length}"):
            IndexedDataset(prefix)
    path.write_bytes(whole + b"\0")
    with pytest.raises(DataError, match=f"expected {len(whole)} bytes.*found {len(whole) + 1}"):
        IndexedDataset(prefix)


def test_one_byte_per_sequence_at_the_end_is_core_s_multimodal_kind(prefix: Path) -> None:
    path = Path(f"{prefix}.idx")
    path.write_bytes(path.read_bytes() + bytes(len(SIZES)))
    assert IndexedDataset(prefix).num_documents == len(SIZES)


@pytest.mark.parametrize("code", [6, 7])
@pytest.mark.parametrize("width", [4, 8])
def test_float_width_follows_the_length_of_the_bin(tmp_path: Path, code: int, width: int) -> None:
    values = np.array([1.5, -2.0, 3.25], dtype=f"<f{width}")
    (tmp_path / "side.bin").write_bytes(values.tobytes())
    index = HEADER.pack(MAGIC, 1, code, 1, 2) + struct.pack("<iqqq", 3, 0, 0, 1)
    (tmp_path / "side.idx").write_bytes(index)
    assert IndexedDataset(tmp_path / "side").sequence(0).tolist() == values.tolist()


def test_index_of_an_old_merge_tool_counts_sequences_as_documents(prefix: Path) -> None:
    path = Path(f"{prefix}.idx")
    data = path.read_bytes()
    path.write_bytes(data[:26] + struct.pack("<Q", 1) + data[34 : DOCUMENTS_AT + 8])
    dataset = IndexedDataset(prefix)
    assert dataset.num_documents == len(SIZES)
    assert [len(dataset.document(number)) for number in range(4)] == SIZES


@pytest.mark.parametrize("block", [1, 3, 100])
def test_one_sequence_per_document_is_written_block_by_block(block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """As by the explicit borders 0, 1, 2, ... in one piece."""
    sizes = np.array([3, 0, 5, 1, 2, 7, 4], dtype=np.int32)
    whole, blocks = io.BytesIO(), io.BytesIO()
    index_file.write_index(whole, np.dtype("<u2"), sizes, np.arange(8))
    monkeypatch.setattr(index_file, "BLOCK", block)
    index_file.write_index(blocks, np.dtype("<u2"), sizes, None)
    assert blocks.getvalue() == whole.getvalue()

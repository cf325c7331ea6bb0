"""Samples made of documents in a row, against plain concatenation."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from megatron.data.document_rows import DocumentRows
from megatron.data.index_cache import MemoryArrays
from megatron.data.indexed_dataset import IndexedDataset, IndexedDatasetWriter
from megatron.data.neox_order import write_packed_index
from megatron.data.pieces import read

RULES = settings(max_examples=40)


def write(prefix: Path, lengths: list[int]) -> IndexedDataset:
    with IndexedDatasetWriter(prefix, dtype="int32") as writer:
        for number, length in enumerate(lengths):
            writer.add_document([1000 * number + place + 1 for place in range(length)])
    return IndexedDataset(prefix)


@RULES
@given(
    lengths=st.lists(st.integers(0, 9), min_size=1, max_size=12).filter(lambda lengths: sum(lengths) > 7),
    seq_length=st.integers(1, 7),
    epochs=st.integers(1, 3),
    seed=st.integers(0, 9),
)
def test_samples_are_stretches_of_the_joined_documents(
    tmp_path: Path, lengths: list[int], seq_length: int, epochs: int, seed: int
) -> None:
    dataset, found = write(tmp_path / "set", lengths), MemoryArrays()
    write_packed_index(found, dataset.sizes, (0, len(lengths)), seq_length=seq_length, seed=seed, num_epochs=epochs)
    joined = np.concatenate([dataset.sequence(int(k)) for k in found["doc_idx"]])
    rows = DocumentRows(dataset, seq_length, found["doc_idx"], found["sample_idx"], dataset.sequence_spans, 1, "packed")
    assert len(rows) == (len(joined) - 1) // seq_length
    table = read(dataset, rows.pieces(np.arange(len(rows))), seq_length + 1, 0)
    for i, row in enumerate(table):
        assert row.tolist() == joined[i * seq_length : (i + 1) * seq_length + 1].tolist()


@pytest.mark.parametrize("overlap", [0, 1])
def test_whole_documents_are_cut_to_the_room_there_is(tmp_path: Path, overlap: int) -> None:
    dataset = write(tmp_path / "set", [3, 9, 2, 2])
    starts = np.array([[0, 0], [1, 0], [2, 0], [4, 0]])
    rows = DocumentRows(dataset, 4, np.arange(4), starts, dataset.document_spans, overlap, "")
    pieces = rows.pieces(np.array([0, 1, 2]))
    assert read(dataset, pieces, 5, 0).tolist() == [
        [1, 2, 3, 1001, 0] if overlap else [1, 2, 3, 0, 0],
        [1001, 1002, 1003, 1004, 1005],
        [2001, 2002, 3001, 3002, 0],  # after the last document there is nothing to share
    ]
    assert pieces.covered().tolist() == [3 + overlap, 5, 4]
    assert pieces.token_at(2, 2) == 14
    assert "4 documents in a row, 3 samples of 4" in rows.describe()


def test_no_sample_stands_in_for_another(tmp_path: Path) -> None:
    dataset = write(tmp_path / "set", [3, 9])
    rows = DocumentRows(dataset, 4, np.arange(2), np.array([[0, 0], [1, 0], [2, 0]]), dataset.document_spans, 0, "")
    for number in (2, -1):
        with pytest.raises(IndexError, match=f"sample {number} of 2"):
            rows.pieces(np.array([number]))

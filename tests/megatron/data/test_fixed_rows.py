"""Preshuffled sets: row i is sample i, whole, in file order; and orders that end where the data end."""

import zlib
from pathlib import Path

import numpy as np
import pytest

from megatron.data.fixed_order import InOrder, StoredOrder
from megatron.data.fixed_rows import FixedRows
from megatron.data.indexed_dataset import IndexedDataset, IndexedDatasetWriter
from megatron.data.pieces import read
from megatron.errors import DataError
from tests.megatron.data import neox_goldens


def test_goldens() -> None:
    known = neox_goldens.expected()["preshuffled"]
    dataset = IndexedDataset(neox_goldens.folder() / "preshuffled" / "document")
    rows = FixedRows(dataset, 0, dataset.num_sequences, 2048)
    assert len(rows) == known["rows"]
    text = read(dataset, rows.pieces(InOrder(len(rows)).samples_at(np.arange(len(rows)))), 2049, 0)
    assert text[:, :4].tolist() == known["row_first4"]
    assert zlib.crc32(text[2:6].astype("<u2").tobytes()) == known["batch_viewer_slice_2_6_crc32_uint16"]


def write(prefix: Path, lengths: list[int]) -> IndexedDataset:
    with IndexedDatasetWriter(prefix, vocab_size=100) as writer:
        for number, length in enumerate(lengths):
            writer.add_document([number] * length)
    return IndexedDataset(prefix)


def test_a_range_of_rows(tmp_path: Path) -> None:
    dataset = write(tmp_path / "set", [5] * 6)
    rows = FixedRows(dataset, 2, 5, 4)
    assert read(dataset, rows.pieces(np.array([2, 0])), 5, 0)[:, 0].tolist() == [4, 2]
    with pytest.raises(IndexError, match="sample 3 of 3"):
        rows.pieces(np.array([3]))
    assert "rows 2 to 4 in their order, 3 samples of 4" in rows.describe()


def test_rows_of_another_length_are_refused(tmp_path: Path) -> None:
    dataset = write(tmp_path / "set", [5, 5, 6, 5])
    with pytest.raises(DataError, match=r"row 2 has 6 tokens, expected seq_length \+ 1 = 5.*data_kind: documents"):
        FixedRows(dataset, 0, 4, 4)
    assert len(FixedRows(dataset, 0, 2, 4)) == 2
    with pytest.raises(DataError, match="rows 1 to 1 are none"):
        FixedRows(dataset, 1, 1, 4)


@pytest.mark.parametrize("order", [InOrder(4), StoredOrder(np.array([2, 0, 3, 1], np.uint32))])
def test_orders_end_and_do_not_start_over(order: InOrder | StoredOrder) -> None:
    """GPT-NeoX takes an index past the end modulo the length, and prints a line."""
    assert sorted(order.samples_at(np.arange(4)).tolist()) == [0, 1, 2, 3]
    assert order.samples_at(np.arange(4)).dtype == np.int64
    with pytest.raises(DataError, match="sample 4 was asked for, and this order has 4"):
        order.samples_at(np.array([1, 4]))
    with pytest.raises(IndexError, match="negative"):
        order.samples_at(np.array([-1]))
    assert order.samples_at(np.array([], np.int64)).tolist() == []

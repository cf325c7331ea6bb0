"""Figures against plain counts, for all of a set and for parts of it."""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from megatron.data.indexed_dataset import IndexedDataset, IndexedDatasetWriter
from megatron.data.inspection import inspect, rows_of, stretches
from megatron.errors import DataError


def write(prefix: Path, documents: list[list[int]], dtype: str = "uint16") -> IndexedDataset:
    with IndexedDatasetWriter(prefix, dtype=dtype) as writer:
        for ids in documents:
            writer.add_document(ids)
    return IndexedDataset(prefix)


@settings(max_examples=40)
@given(st.lists(st.lists(st.integers(0, 3), max_size=14), max_size=10))
def test_figures_of_everything(tmp_path: Path, documents: list[list[int]]) -> None:
    found = inspect(write(tmp_path / "set", documents), 10**6)
    counts = Counter(i for ids in documents for i in ids)
    total = sum(counts.values())
    assert found.looked_at == found.tokens == total
    assert found.distinct_ids == len(counts)
    assert {i: share * total for i, share in found.most_frequent(9)} == pytest.approx(counts)
    assert found.share_of([0, 2, 2, 99]) == pytest.approx((counts[0] + counts[2]) / max(1, total))
    long = [tuple(ids) for ids in documents if len(ids) >= 8]
    assert (found.compared_documents, found.repeated_documents) == (len(long), len(long) - len(set(long)))
    for one, other in found.repeats:
        assert other < one and documents[one] == documents[other]
    assert found.empty_documents == sum(not ids for ids in documents)
    if documents:
        assert found.lengths["longest"] == max(map(len, documents))


@settings(max_examples=40)
@given(st.lists(st.integers(0, 30), min_size=1, max_size=300), st.integers(1, 4000))
def test_stretches_are_apart_and_not_too_large(tmp_path: Path, sizes: list[int], wanted: int) -> None:
    dataset = write(tmp_path / "set", [[1] * size for size in sizes])
    found = stretches(dataset, wanted)
    flat = [end for ends in found for end in ends]
    assert flat == sorted(flat) and flat[-1] <= len(sizes)
    total = sum(sum(sizes[first:last]) for first, last in found)
    assert total == sum(sizes) if sum(sizes) <= wanted else total <= wanted + 64 * 2 * 31
    assert found


def test_rows(tmp_path: Path) -> None:
    dataset = write(tmp_path / "set", [list(range(100))])
    assert rows_of(dataset, 10, 3).tolist() == [list(range(n, n + 10)) for n in (0, 45, 90)]
    assert rows_of(dataset, 1000, 3).shape == (1, 100)
    assert rows_of(dataset, 60, 5).shape == (1, 60)


def test_side_files(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="float32"):
        inspect(write(tmp_path / "f", [[1]], "float32"), 10)
    with pytest.raises(DataError, match=r"byte 8: id -100 at token 2 is negative"):
        inspect(write(tmp_path / "l", [[1, 2], [-100]], "int32"), 10)
    assert np.array_equal(inspect(write(tmp_path / "e", []), 10).ids, [])

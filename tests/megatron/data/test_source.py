"""Which sample stands where: the same for any split over ranks and steps, none twice in an epoch, none outside."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from megatron.data.blend import Blend
from megatron.data.indexed_dataset import IndexedDataset, IndexedDatasetWriter
from megatron.data.order import SampleOrder
from megatron.data.samples import SampleStream
from megatron.data.source import Part, SampleSource
from megatron.errors import DataError

VOCAB = 1000


def write(prefix: Path, documents: list[list[int]], dtype: str = "uint16") -> IndexedDataset:
    with IndexedDatasetWriter(prefix, dtype=dtype) as writer:
        for ids in documents:
            writer.add_document(ids)
    return IndexedDataset(prefix)


def part(dataset: IndexedDataset, seq_length: int, name: str = "", labels: IndexedDataset | None = None) -> Part:
    stream = SampleStream(dataset, 0, dataset.num_documents, seq_length)
    return Part(stream, SampleOrder(len(stream), 5, name), labels)


@settings(max_examples=30)
@given(
    weights=st.lists(st.integers(0, 4), min_size=1, max_size=3).filter(any),
    start=st.integers(0, 500),
)
def test_text_is_that_of_the_located_sample(tmp_path: Path, weights: list[int], start: int) -> None:
    parts = [
        part(write(tmp_path / f"set{k}", [[100 * k + i for i in range(40 + 7 * k)]]), 3, str(k))
        for k in range(len(weights))
    ]
    source = SampleSource(parts, Blend(weights), vocab_size=VOCAB)
    positions = np.arange(start, start + 9)
    text, labels = source.read(positions)
    assert text.shape == labels.shape == (9, 4)
    for row, k, number in zip(text, *source.locate(positions), strict=True):
        assert row.tolist() == [100 * k + number * 3 + place for place in range(4)]
        assert weights[k] > 0


def test_each_part_shows_all_its_samples_before_any_again(tmp_path: Path) -> None:
    parts = [part(write(tmp_path / f"set{k}", [list(range(20 + 10 * k))]), 2, str(k)) for k in range(3)]
    source = SampleSource(parts, Blend([1, 2, 3]), vocab_size=VOCAB)
    sets, numbers = source.locate(np.arange(600))
    for k, size in enumerate(len(piece.stream) for piece in parts):
        mine = numbers[sets == k]
        for epoch in range(len(mine) // size):
            assert sorted(mine[epoch * size : (epoch + 1) * size]) == list(range(size))
    assert source.num_samples == sum(len(piece.stream) for piece in parts)


@pytest.mark.parametrize("wrong", [VOCAB, 60000])
def test_an_id_outside_the_vocabulary_is_placed(tmp_path: Path, wrong: int) -> None:
    dataset = write(tmp_path / "corpus", [[1] * 30, [2] * 7 + [wrong] + [2] * 22])
    source = SampleSource([part(dataset, 5)], Blend([1]), vocab_size=VOCAB)
    with pytest.raises(
        DataError, match=rf"corpus\.bin, byte 74: id {wrong} at token 37 of .*corpus; the vocabulary has {VOCAB} "
    ):
        source.read(np.arange(11))


def test_a_negative_id_is_placed(tmp_path: Path) -> None:
    dataset = write(tmp_path / "corpus", [[1, 2, -100, 3]], "int32")
    source = SampleSource([part(dataset, 3)], Blend([1]), vocab_size=VOCAB)
    with pytest.raises(DataError, match="id -100 at token 2"):
        source.read(np.arange(1))


def test_labels_come_from_their_own_file(tmp_path: Path) -> None:
    documents = [[1, 2, 3, 4, 5, 6, 7]]
    text = write(tmp_path / "text", documents)
    labels = write(tmp_path / "label", [[-100, -100, 3, 4, -100, 6, 7]], "int32")
    source = SampleSource([part(text, 6, labels=labels)], Blend([1]), vocab_size=VOCAB)
    rows, row_labels = source.read(np.arange(1))
    assert rows.tolist() == documents
    assert row_labels.tolist() == [[-100, -100, 3, 4, -100, 6, 7]]


def test_labels_that_do_not_fit_their_text(tmp_path: Path) -> None:
    text = write(tmp_path / "text", [[1, 2, 3], [4]])
    with pytest.raises(DataError, match="label: label files have the same documents"):
        part(text, 2, labels=write(tmp_path / "label", [[1, 2], [3, 4]], "int32"))
    outside = write(tmp_path / "outside", [[1, 2, VOCAB], [4]], "int32")
    source = SampleSource([part(text, 2, labels=outside)], Blend([1]), vocab_size=VOCAB)
    with pytest.raises(DataError, match=f"label {VOCAB} at token 2"):
        source.read(np.arange(1))

"""Samples against the stream written out in full."""

import json
import zlib
from itertools import chain
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from megatron.data.indexed_dataset import IndexedDataset, IndexedDatasetWriter
from megatron.data.samples import SampleStream
from megatron.errors import DataError
from tests.helpers.shared import shared_folder


@settings(max_examples=60)
@given(
    sizes=st.lists(st.integers(0, 12), min_size=1, max_size=12),
    seq_length=st.integers(1, 9),
    ends=st.tuples(st.floats(0, 1), st.floats(0, 1)),
)
def test_samples_are_cut_from_the_joined_documents(
    tmp_path: Path, sizes: list[int], seq_length: int, ends: tuple[float, float]
) -> None:
    first, last = sorted(round(end * len(sizes)) for end in ends)
    documents = [[1000 * number + place for place in range(size)] for number, size in enumerate(sizes)]
    with IndexedDatasetWriter(tmp_path / "set", vocab_size=20000) as writer:
        for ids in documents:
            writer.add_document(ids)
    dataset = IndexedDataset(tmp_path / "set")
    joined = list(chain(*documents[first:last]))
    count = (len(joined) - 1) // seq_length
    if count < 1:
        with pytest.raises(
            DataError, match=f"{len(joined)} tokens; one sample needs seq_length \\+ 1 = {seq_length + 1}"
        ):
            SampleStream(dataset, first, last, seq_length)
        return
    stream = SampleStream(dataset, first, last, seq_length)
    assert len(stream) == count
    for number in range(count):
        sample = stream.sample(number)
        assert sample.dtype == np.int64
        assert sample.tolist() == joined[number * seq_length : number * seq_length + seq_length + 1]
    for outside in (-1, count):
        with pytest.raises(IndexError):
            stream.sample(outside)


def test_documents_of_several_sequences(tmp_path: Path) -> None:
    with IndexedDatasetWriter(tmp_path / "set", vocab_size=100) as writer:
        writer.add_sequences([[1, 2], [3]])
        writer.add_sequences([])
        writer.add_sequences([[4], [], [5, 6, 7]])
    dataset = IndexedDataset(tmp_path / "set")
    assert SampleStream(dataset, 1, 3, 3).sample(0).tolist() == [4, 5, 6, 7]
    assert [SampleStream(dataset, 0, 3, 3).sample(i).tolist() for i in (0, 1)] == [[1, 2, 3, 4], [4, 5, 6, 7]]


def test_numbers_that_are_no_ids_are_refused(tmp_path: Path) -> None:
    with IndexedDatasetWriter(tmp_path / "rewards", dtype="float32") as writer:
        writer.add_document([0.5, 1.5, 2.5])
    with pytest.raises(DataError, match="float32"):
        SampleStream(IndexedDataset(tmp_path / "rewards"), 0, 1, 1)


def test_goldens_sample_by_sample(tmp_path: Path) -> None:
    """With the documents laid and the samples read in GPT-NeoX's order, every one of its samples is ours."""
    folder = shared_folder("reference", "goldens_data")
    maps = np.load(folder / "index_maps.npz")
    for case in json.loads((folder / "expect.json").read_text())["gpt2_dataset"]:
        dataset = IndexedDataset(folder / "idxmap" / case["prefix"])
        for name, facts in case["sets"].items():
            if not facts:
                continue
            documents, _, order = (maps[f"{case['id']}/{name}/{kind}_idx"] for kind in ("doc", "sample", "shuffle"))
            with IndexedDatasetWriter(tmp_path / "laid", dtype=dataset.dtype) as writer:
                for number in documents:
                    writer.add_document(dataset.document(int(number)))
            stream = SampleStream(IndexedDataset(tmp_path / "laid"), 0, len(documents), case["seq_length"])
            assert len(stream) == len(order) == facts["samples_in_index"]
            crc = 0
            for number in order:
                crc = zlib.crc32(stream.sample(int(number)).astype("<i8").tobytes(), crc)
            assert crc == facts["crc32_all_samples_int64_in_order"]

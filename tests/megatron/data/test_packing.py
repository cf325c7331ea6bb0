"""Packing kinds: as GPT-NeoX packs where it does it well, better where it does not."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from megatron.data.document_rows import DocumentRows
from megatron.data.index_cache import IndexCache, MemoryArrays
from megatron.data.indexed_dataset import IndexedDataset, IndexedDatasetWriter
from megatron.data.make_parts import PartOptions, make_part
from megatron.data.neox_order import write_packed_index
from megatron.data.packing import usable_documents, write_neox_packing
from megatron.data.pieces import read
from megatron.data.source import Part
from megatron.errors import DataError
from tests.megatron.data import neox_goldens
from tests.megatron.data.neox_goldens import helper

__all__ = ["helper"]
RULES = settings(max_examples=30)
KINDS = ["pack_until_overflow", "unpacked"]


def test_goldens(helper: str) -> None:
    """Arrays, texts and labels of all five cases, padding included."""
    for case in neox_goldens.expected()["packing"]:
        dataset, labels = neox_goldens.dataset(case["prefix"]), neox_goldens.dataset(case["label_prefix"])
        found, length = MemoryArrays(), case["seq_length"]
        documents = (0, dataset.num_sequences)
        given = {"seq_length": length, "seed": case["seed"], "num_samples": case["num_samples"]}
        if case["pack_impl"] == "packed":
            write_packed_index(found, dataset.sizes, documents, **given)
        else:
            usable = usable_documents(dataset.sizes, 0, length, case["allow_chopped"], labels, labels.sequence_spans)
            write_neox_packing(found, usable, dataset.sizes, documents, case["pack_impl"], **given)
        for key, array in neox_goldens.arrays(case["id"]).items():
            assert found[key].dtype == array.dtype
            assert np.array_equal(found[key], array), (case["id"], key)
        rows = DocumentRows(dataset, length, found["doc_idx"], found["sample_idx"], dataset.sequence_spans, 1, "")
        for position, sample in case["samples"].items():
            pieces = rows.pieces(found["shuffle_idx"][[int(position)]])
            assert read(dataset, pieces, length + 1, 0)[0].tolist() == sample["text"]
            assert read(labels, pieces, length + 1, -100)[0].tolist() == sample["label"]


def write(prefix: Path, lengths: list[int], labels: bool = False) -> IndexedDataset:
    """Document k is the id k + 1, repeated; of labels, every third document has none."""
    with IndexedDatasetWriter(prefix, dtype="int32") as writer:
        for number, length in enumerate(lengths):
            writer.add_document([-100 if labels and number % 3 == 0 else number + 1] * length)
    return IndexedDataset(prefix)


def part(
    dataset: IndexedDataset,
    pack_impl: str,
    *,
    labels: IndexedDataset | None = None,
    documents: tuple[int, int] | None = None,
    allow_chopped: bool = True,
    order: str = "computed",
    num_samples: int = 12,
) -> Part:
    options = PartOptions("documents", order, pack_impl, allow_chopped, 8, 5, IndexCache(None, print))
    return make_part(
        dataset,
        labels,
        documents or (0, dataset.num_documents),
        options,
        name="train",
        num_samples=num_samples,
        hashes={},
    )


@RULES
@given(
    lengths=st.lists(st.integers(0, 14), min_size=1, max_size=20).filter(any),
    kind=st.sampled_from(KINDS),
    allow_chopped=st.booleans(),
)
def test_every_usable_document_comes_once_an_epoch_and_whole(
    tmp_path: Path, lengths: list[int], kind: str, allow_chopped: bool
) -> None:
    dataset = write(tmp_path / "set", lengths)
    wanted = [k for k, length in enumerate(lengths) if length > 0 and (allow_chopped or length <= 9)]
    if not wanted:
        with pytest.raises(DataError, match="can be used"):
            part(dataset, kind, allow_chopped=allow_chopped)
        return
    made = part(dataset, kind, allow_chopped=allow_chopped)
    samples = made.order.samples_at(np.arange(made.order.size))
    text, labels = made.read(samples, 1000)
    counts = np.bincount(text.ravel(), minlength=len(lengths) + 1)[1:]
    assert counts.tolist() == [min(length, 9) if k in wanted else 0 for k, length in enumerate(lengths)]
    assert (labels[text == 0] == -100).all(), "padding is never trained on"
    assert (labels[text > 0] == text[text > 0]).all()
    if kind == "unpacked":
        assert made.order.size == len(wanted)


@pytest.mark.parametrize("order", ["computed", "neox"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_split_keeps_to_its_documents(tmp_path: Path, kind: str, order: str) -> None:
    """GPT-NeoX takes the first documents whatever the range, so that its validation is training text."""
    made = part(write(tmp_path / "set", [4] * 20), kind, documents=(13, 20), order=order)
    text, _ = made.read(made.order.samples_at(np.arange(made.order.size)), 1000)
    assert set(text.ravel().tolist()) <= {0, *range(14, 21)}


@pytest.mark.parametrize("order", ["computed", "neox"])
@pytest.mark.parametrize("kind", KINDS)
def test_padding_without_labels_is_not_trained_on(tmp_path: Path, kind: str, order: str) -> None:
    """GPT-NeoX pads unlabelled text with 0, an id like any other, and trains on it."""
    made = part(write(tmp_path / "set", [5] * 6), kind, order=order)
    text, labels = made.read(made.order.samples_at(np.arange(made.order.size)), 1000)
    assert (text == 0).any()
    assert ((text == 0) == (labels == -100)).all()


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("allow_chopped", [True, False])
def test_the_last_sample_can_be_fetched(tmp_path: Path, seed: int, allow_chopped: bool) -> None:
    """GPT-NeoX's cannot, for about one seed in as many as there are samples; nor does it survive chopping off."""
    lengths = [3, 7, 12, 2, 9, 15, 4]
    dataset, found = write(tmp_path / "set", lengths), MemoryArrays()
    usable = usable_documents(dataset.sizes, 0, 8, allow_chopped, None, None)
    write_neox_packing(
        found, usable, dataset.sizes, (0, 7), "pack_until_overflow", seq_length=8, seed=seed, num_samples=9
    )
    rows = DocumentRows(dataset, 8, found["doc_idx"], found["sample_idx"], dataset.sequence_spans, 1, "")
    text = read(dataset, rows.pieces(np.arange(9)), 9, 0)
    assert (text[:, 0] > 0).all()
    assert allow_chopped or not set(text.ravel().tolist()) & {3, 6}


@pytest.mark.parametrize("order", ["computed", "neox"])
@pytest.mark.parametrize("kind", KINDS)
def test_documents_without_a_label_are_left_out(tmp_path: Path, kind: str, order: str) -> None:
    lengths = [4] * 9
    dataset, labels = write(tmp_path / "set", lengths), write(tmp_path / "labels", lengths, labels=True)
    made = part(dataset, kind, labels=labels, order=order)
    text, label = made.read(made.order.samples_at(np.arange(made.order.size)), 1000)
    shared = 1 if order == "neox" else 0  # its samples end with the first token of the next document
    assert set(text[:, : 8 - shared].ravel().tolist()) <= {0, 2, 3, 5, 6, 8, 9}
    assert (label >= 0).any(axis=1).all()
    none = write(tmp_path / "none", [1])
    with pytest.raises(DataError, match=r"none.*no label in reach"):
        empty = write(tmp_path / "unlabelled", [1], labels=True)
        part(none, kind, labels=empty, order=order)

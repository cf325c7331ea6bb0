"""Every option that changes an index array is part of its name in the cache, and nothing else is."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from megatron.data.index_cache import IndexCache
from megatron.data.indexed_dataset import IndexedDataset, IndexedDatasetWriter
from megatron.data.make_parts import PartOptions, make_part, stored_blend
from megatron.errors import DataError

LENGTHS = [4, 7, 3, 12, 5, 9, 6, 11]


def write(prefix: Path, lengths: list[int], shift: int = 0) -> IndexedDataset:
    with IndexedDatasetWriter(prefix, dtype="int32") as writer:
        for number, length in enumerate(lengths):
            writer.add_document([number + shift] * length)
    return IndexedDataset(prefix)


class Made:
    """Makes parts of one data set with a cache of its own, and counts what was built."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.said: list[str] = []

    def built(self, **changes: Any) -> int:
        """How many arrays were built for the plain options with these changes."""
        given: dict[str, Any] = {
            "lengths": LENGTHS,
            "shift": 0,
            "documents": (0, 8),
            "name": "train",
            "num_samples": 12,
            "data_order": "neox",
            "pack_impl": "packed",
            "allow_chopped": True,
            "seq_length": 8,
            "seed": 1,
            "labels": None,
        } | changes
        dataset = write(self.folder / "set", given["lengths"], given["shift"])
        labels = None if given["labels"] is None else write(self.folder / "labels", given["lengths"], given["labels"])
        fields = {key: given[key] for key in ("data_order", "pack_impl", "allow_chopped", "seq_length", "seed")}
        options = PartOptions(
            data_kind="documents", cache=IndexCache(self.folder / "cache", self.said.append), **fields
        )
        before = len(self.said)
        part = make_part(
            dataset,
            labels,
            given["documents"],
            options,
            name=given["name"],
            num_samples=given["num_samples"],
            hashes={"text": dataset.fingerprints(), "labels": labels and labels.fingerprints()},
        )
        part.read(part.order.samples_at(np.arange(part.order.size)), 1000)
        return len(self.said) - before


CHANGES: list[dict[str, Any]] = [
    {"documents": (0, 7)},
    {"documents": (1, 8)},
    {"seq_length": 9},
    {"allow_chopped": False},
    {"shift": 3},
    {"lengths": [7, 4, *LENGTHS[2:]]},
]
ORDER_CHANGES: list[dict[str, Any]] = [{"seed": 2}, {"num_samples": 13}]


@pytest.mark.parametrize("pack_impl", ["packed", "pack_until_overflow", "unpacked"])
@pytest.mark.parametrize("change", [*CHANGES, *ORDER_CHANGES], ids=str)
def test_neox_arrays(tmp_path: Path, pack_impl: str, change: dict[str, Any]) -> None:
    made = Made(tmp_path)
    assert made.built(pack_impl=pack_impl) == 1
    assert made.built(**{"pack_impl": pack_impl} | change) == 1
    assert made.built(pack_impl=pack_impl) == 0
    assert made.built(**{"pack_impl": pack_impl} | change) == 0


def test_ranges_of_like_documents_are_not_taken_for_each_other(tmp_path: Path) -> None:
    made = Made(tmp_path)
    assert made.built(lengths=[6] * 8, documents=(0, 7)) == 1
    assert made.built(lengths=[6] * 8, documents=(1, 8)) == 1


@pytest.mark.parametrize("change", CHANGES, ids=str)
def test_packed_documents(tmp_path: Path, change: dict[str, Any]) -> None:
    made = Made(tmp_path)
    given = {"data_order": "computed", "pack_impl": "pack_until_overflow"}
    assert made.built(**given) == 1
    assert made.built(**given | change) == 1
    for other in ORDER_CHANGES:
        assert made.built(**given | other) == 0, "our order is not in the arrays"
    assert made.built(**given, labels=0) == 1
    assert made.built(**given, labels=-3) == 1


def test_plain_samples_need_no_arrays(tmp_path: Path) -> None:
    assert Made(tmp_path).built(data_order="computed") == 0
    assert not (tmp_path / "cache").exists()


def test_mixtures(tmp_path: Path) -> None:
    said: list[str] = []
    cache = IndexCache(tmp_path, said.append)
    for shares, size in (([0.5, 0.5], 10), ([0.5, 0.5], 11), ([0.4, 0.6], 10), ([0.5, 0.5], 10)):
        assert stored_blend(shares, size, cache, "train").size == size
    assert len(said) == 3


def test_what_is_wrong_is_said_of_the_data_set(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"/set: documents 0 to 8 have no tokens"):
        Made(tmp_path).built(lengths=[0] * 8)
    with pytest.raises(DataError, match=r"/set: none of the 8 documents"):
        Made(tmp_path).built(lengths=[0] * 8, pack_impl="unpacked")

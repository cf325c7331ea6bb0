"""Sets that share documents or texts, from the settings as they stand."""

from pathlib import Path

import numpy as np

from megatron.data.disjoint import Range, equal_texts, ranges_from_args, shared_documents
from megatron.data.indexed_dataset import IndexedDataset, IndexedDatasetWriter
from megatron.neox_arguments.load import arguments_from_texts
from tests.helpers.tiny_run import tiny_settings


def write(prefix: Path, seeds: list[int]) -> IndexedDataset:
    with IndexedDatasetWriter(prefix, dtype="uint16") as writer:
        for seed in seeds:
            writer.add_document(np.random.default_rng(seed).integers(0, 100, 20))
    return IndexedDataset(prefix)


def test_ranges_of_one_file(tmp_path: Path) -> None:
    one = write(tmp_path / "one", [1, 2, 3])
    same = IndexedDataset(tmp_path / "one")
    apart = [Range("train", one, 0, 2), Range("valid", same, 2, 3), Range("train", same, 0, 3)]
    assert shared_documents(apart[:2]) == []
    (line,) = shared_documents(apart)
    assert "documents 2 to 2 are in both valid and train" in line
    assert len(shared_documents([Range("valid", one, 0, 3), Range("test", same, 1, 2)])) == 1


def test_equal_texts_in_different_files(tmp_path: Path) -> None:
    train, valid = write(tmp_path / "train", [1, 2, 3, 4]), write(tmp_path / "valid", [9, 3, 1])
    ranges = [Range("train", train, 0, 2), Range("valid", valid, 0, 3), Range("train", train, 2, 4)]
    (found,) = equal_texts(ranges)
    assert (found.name, found.other, found.count, found.documents) == ("valid", "train", 2, 3)


def test_ranges_from_settings(tmp_path: Path) -> None:
    import yaml

    one = write(tmp_path / "one", list(range(10)))
    settings = tiny_settings(one.prefix, split="8,1,1")
    found = ranges_from_args(arguments_from_texts([("a.yml", yaml.safe_dump(settings))]))
    assert [(part.name, part.first, part.last) for part in found] == [("train", 0, 8), ("valid", 8, 9), ("test", 9, 10)]
    assert shared_documents(found) == []


def test_named_sets_are_compared_with_the_training_data_only(tmp_path: Path) -> None:
    import yaml

    one, other = write(tmp_path / "one", list(range(10))), write(tmp_path / "other", [20, 21])
    named = {"books": str(one.prefix), "code": str(other.prefix), "again": str(other.prefix)}
    settings = tiny_settings(one.prefix, split="8,1,1", validation_sets=named)
    found = ranges_from_args(arguments_from_texts([("a.yml", yaml.safe_dump(settings))]))
    (line,) = shared_documents(found)
    assert "documents 0 to 7 are in both train and books" in line
    assert [(equal.name, equal.other) for equal in equal_texts(found) if equal.count] == [("books", "train")]

"""Merged sets equal the documents of all of them, one after another."""

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from megatron.data.indexed_dataset import IndexedDatasetWriter
from megatron.data.merge import find_prefixes, merge
from megatron.errors import DataError

sets_strategy = st.lists(
    st.lists(st.lists(st.lists(st.integers(0, 9), max_size=4), max_size=3), max_size=4), min_size=1, max_size=4
)


@settings(max_examples=30)
@given(sets_strategy)
def test_any_sets(tmp_path_factory: pytest.TempPathFactory, sets: list) -> None:
    folder = tmp_path_factory.mktemp("merge")
    with IndexedDatasetWriter(folder / "expected", dtype="int16") as expected:
        for number, documents in enumerate(sets):
            with IndexedDatasetWriter(folder / "parts" / f"{number}", dtype="int16") as writer:
                for sequences in documents:
                    writer.add_sequences(sequences)
                    expected.add_sequences(sequences)
    assert merge(find_prefixes(folder / "parts"), folder / "all").num_documents == sum(map(len, sets))
    for ending in ("bin", "idx"):
        assert (folder / f"all.{ending}").read_bytes() == (folder / f"expected.{ending}").read_bytes()


def test_a_damaged_part_leaves_an_older_set_alone(tmp_path: Path) -> None:
    for name in ("parts/a", "parts/b", "all"):
        with IndexedDatasetWriter(tmp_path / name, dtype="uint16") as writer:
            writer.add_document([1, 2])
    (tmp_path / "parts" / "b.bin").write_bytes(b"")
    with pytest.raises(DataError, match=r"b\.bin: expected 4 bytes"):
        merge(find_prefixes(tmp_path / "parts"), tmp_path / "all")
    assert (tmp_path / "all.bin").stat().st_size == 4 and (tmp_path / "all.idx").exists()

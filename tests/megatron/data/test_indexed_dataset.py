"""Writing and reading idxmap sets: bytes as published, any content there and back, nothing half-written."""

import json
import os
import pickle
import zlib
from itertools import chain
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from megatron.data.index_file import DTYPES
from megatron.data.indexed_dataset import IndexedDataset, IndexedDatasetWriter, token_dtype
from megatron.errors import DataError
from tests.helpers.shared import shared_folder

documents_strategy = st.lists(st.lists(st.lists(st.integers(0, 127), max_size=5), max_size=3), max_size=8)


@settings(max_examples=60)
@given(documents=documents_strategy, dtype=st.sampled_from(list(DTYPES.values())))
def test_any_documents_there_and_back(tmp_path: Path, documents: list[list[list[int]]], dtype: np.dtype) -> None:
    with IndexedDatasetWriter(tmp_path / "set", dtype=dtype) as writer:
        for sequences in documents:
            writer.add_sequences(sequences)
    dataset = IndexedDataset(tmp_path / "set")
    flat = [sequence for sequences in documents for sequence in sequences]
    assert dataset.dtype == dtype
    assert [dataset.sequence(number).tolist() for number in range(dataset.num_sequences)] == flat
    assert [dataset.document(number).tolist() for number in range(dataset.num_documents)] == [
        list(chain(*sequences)) for sequences in documents
    ]
    assert dataset.num_tokens == sum(map(len, flat))


@settings(max_examples=20)
@given(st.lists(st.lists(st.integers(0, 65535), max_size=6), max_size=9), st.integers(1, 4))
def test_many_at_once_equals_one_by_one(tmp_path: Path, documents: list[list[int]], step: int) -> None:
    with IndexedDatasetWriter(tmp_path / "single", vocab_size=60000) as writer:
        for ids in documents:
            writer.add_document(ids)
    with IndexedDatasetWriter(tmp_path / "bulk", vocab_size=60000) as writer:
        for start in range(0, len(documents), step):
            some = documents[start : start + step]
            writer.add_documents(np.array(list(chain(*some)), dtype=np.int64), np.array([len(ids) for ids in some]))
    for ending in ("bin", "idx"):
        assert (tmp_path / f"single.{ending}").read_bytes() == (tmp_path / f"bulk.{ending}").read_bytes()


def test_dtype_rule() -> None:
    assert token_dtype(65499) == np.uint16
    assert token_dtype(65500) == np.int32


@pytest.mark.parametrize(("vocab_size", "wrong"), [(60000, 65536), (60000, -1), (70000, 1 << 31)])
def test_an_id_that_does_not_fit_is_refused_and_leaves_nothing(tmp_path: Path, vocab_size: int, wrong: int) -> None:
    with (
        pytest.raises(DataError, match=f"id {wrong} of sequence 1 does not fit"),
        IndexedDatasetWriter(tmp_path / "set", vocab_size=vocab_size) as writer,
    ):
        writer.add_document([1, 2])
        writer.add_document([3, wrong])
    assert list(tmp_path.iterdir()) == []


def test_a_failed_run_keeps_the_older_set(tmp_path: Path) -> None:
    with IndexedDatasetWriter(tmp_path / "set", vocab_size=100) as writer:
        writer.add_document([1, 2, 3])
    with pytest.raises(RuntimeError), IndexedDatasetWriter(tmp_path / "set", vocab_size=100) as writer:
        writer.add_document([9])
        raise RuntimeError("stopped")
    assert IndexedDataset(tmp_path / "set").document(0).tolist() == [1, 2, 3]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["set.bin", "set.idx"]


def test_nothing_has_its_name_before_the_end(tmp_path: Path) -> None:
    writer = IndexedDatasetWriter(tmp_path / "set", vocab_size=100)
    writer.add_document([1])
    assert not (tmp_path / "set.bin").exists()
    assert not (tmp_path / "set.idx").exists()
    writer.close()
    assert IndexedDataset(tmp_path / "set").num_documents == 1


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(DataError, match="cannot write there"):
        IndexedDatasetWriter(tmp_path / "file" / "set", vocab_size=100)


def test_missing_files_are_named_with_their_neighbours(tmp_path: Path) -> None:
    with IndexedDatasetWriter(tmp_path / "corpus_text_document", vocab_size=100) as writer:
        writer.add_document([1])
    with pytest.raises(DataError, match=r"corpse_text_document\.bin and .*\.idx not found.*Did you mean .*corpus_text"):
        IndexedDataset(tmp_path / "corpse_text_document")
    with pytest.raises(DataError, match=r"Give the prefix without its ending: .*corpus_text_document$"):
        IndexedDataset(tmp_path / "corpus_text_document.bin")
    with pytest.raises(DataError, match=r"folder .*nowhere does not exist"):
        IndexedDataset(tmp_path / "nowhere" / "set")
    (tmp_path / "corpus_text_document.idx").unlink()
    with pytest.raises(DataError, match=r": [^ ]*corpus_text_document\.idx not found\. Data sets are made by"):
        IndexedDataset(tmp_path / "corpus_text_document")
    (tmp_path / "pile-00000-of-00001.bin").touch()
    with pytest.raises(DataError, match=r"1 of 2 shards are there.*missing: pile-00001-of-00001\.bin"):
        IndexedDataset(tmp_path / "pile")


def test_shortened_while_open(tmp_path: Path) -> None:
    with IndexedDatasetWriter(tmp_path / "set", vocab_size=100) as writer:
        writer.add_document(list(range(50)))
    dataset = IndexedDataset(tmp_path / "set")
    os.truncate(tmp_path / "set.bin", 60)
    assert dataset.tokens(0, 30).tolist() == list(range(30))
    with pytest.raises(DataError, match=r"set\.bin: expected 10 more bytes at byte 60, found 0.*while in use"):
        dataset.tokens(25, 10)


def test_limits_are_checked(tmp_path: Path) -> None:
    with IndexedDatasetWriter(tmp_path / "set", vocab_size=100) as writer:
        writer.add_document([1, 2])
    dataset = IndexedDataset(tmp_path / "set")
    for read in (dataset.sequence, dataset.document):
        for number in (-1, 1):
            with pytest.raises(IndexError):
                read(number)
    with pytest.raises(IndexError):
        dataset.tokens(1, 2)


def test_survives_pickling_and_its_arrays_survive_it(tmp_path: Path) -> None:
    with IndexedDatasetWriter(tmp_path / "set", vocab_size=100) as writer:
        writer.add_document([1, 2])
    sizes = pickle.loads(pickle.dumps(IndexedDataset(tmp_path / "set"))).sizes
    assert sizes.tolist() == [2]


def test_beyond_two_to_the_32_tokens_without_memory(tmp_path: Path) -> None:
    """A sparse file of 4,200 documents of a Mi tokens: offsets pass 2^31 and 2^32 tokens and bytes."""
    documents, size = 4200, 1 << 20
    with IndexedDatasetWriter(tmp_path / "huge", vocab_size=100) as writer:
        writer._sizes.extend([size] * documents)
        writer._document_index.extend(range(1, documents + 1))
        writer._file.truncate(documents * size * 2)
    for place in ((1 << 31) + 5, (1 << 32) + 7):
        with (tmp_path / "huge.bin").open("r+b") as file:
            file.seek(place * 2)
            file.write(np.array([place % 97], dtype="<u2").tobytes())
    dataset = IndexedDataset(tmp_path / "huge")
    for place in ((1 << 31) + 5, (1 << 32) + 7):
        assert dataset.tokens(place - 1, 3).tolist() == [0, place % 97, 0]
        assert dataset.first_token(place // size) == place // size * size
    assert dataset.num_tokens == documents * size > 1 << 32


def test_goldens_read_and_written_again_to_the_byte(tmp_path: Path) -> None:
    folder = shared_folder("reference", "goldens_data")
    expect = json.loads((folder / "expect.json").read_text())
    prefixes = [*(folder / "idxmap").glob("*_text_document.idx"), *(folder / "labels").glob("*.idx")]
    assert len(prefixes) >= 10
    for path in prefixes:
        dataset = IndexedDataset(path.with_suffix(""))
        with IndexedDatasetWriter(tmp_path / "copy", dtype=dataset.dtype) as writer:
            for number in range(dataset.num_documents):
                writer.add_document(dataset.document(number))
        assert (tmp_path / "copy.idx").read_bytes() == path.read_bytes()
        assert (tmp_path / "copy.bin").read_bytes() == path.with_suffix(".bin").read_bytes()
        if path.stem in expect["datasets"]:
            facts = expect["datasets"][path.stem]
            assert dataset.dtype.name == facts["dtype"]
            assert dataset.num_tokens == facts.get("tokens", dataset.num_tokens)
            for number, row in enumerate(facts["docs"]):
                tokens = dataset.document(number)
                assert [len(tokens), zlib.crc32(tokens.tobytes())] == row[:2]


def test_golden_types_and_many_sequences(tmp_path: Path) -> None:
    folder = shared_folder("reference", "goldens_data")
    expect = json.loads((folder / "expect.json").read_text())
    for code, name in expect["dtypes"].items():
        dataset = IndexedDataset(folder / "idxmap" / f"dtype{code}")
        assert dataset.dtype.name == name
        assert [dataset.sequence(i).tolist() for i in range(4)] == expect["dtype_files_items"]
    multi = IndexedDataset(folder / "idxmap" / "multi")
    documents = expect["multi_int32"]["documents"]
    assert [multi.document(i).tolist() for i in range(multi.num_documents)] == [list(chain(*d)) for d in documents]
    with IndexedDatasetWriter(tmp_path / "multi", dtype="int32") as writer:
        for sequences in documents:
            writer.add_sequences(sequences)
    for ending in ("bin", "idx"):
        assert (tmp_path / f"multi.{ending}").read_bytes() == (folder / "idxmap" / f"multi.{ending}").read_bytes()
    with pytest.raises(DataError, match="TNTIDX"):
        IndexedDataset(folder / "idxmap" / "legacy_tnt")

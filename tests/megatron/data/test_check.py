"""Every token is looked at: findings equal a plain loop, the first fault is told, whatever block it lies in."""

import os
import re
import threading
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import megatron.data.check as check
from megatron.data.check import check_tokens, end_problem
from megatron.data.indexed_dataset import IndexedDataset, IndexedDatasetWriter
from megatron.errors import DataError


def write(prefix: Path, documents: list[list[list[int]]], dtype: str = "uint16") -> IndexedDataset:
    with IndexedDatasetWriter(prefix, dtype=dtype) as writer:
        for sequences in documents:
            writer.add_sequences(sequences)
    return IndexedDataset(prefix)


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(check, "BLOCK_BYTES", 8)
    monkeypatch.setattr(check, "SPAN_BYTES", 24)


@settings(max_examples=80)
@given(
    st.lists(st.lists(st.lists(st.integers(0, 3), max_size=9), max_size=3), max_size=9),
    st.sampled_from(["uint16", "int32", "int8"]),
    st.integers(1, 3),
)
def test_findings_equal_a_plain_loop(tmp_path: Path, documents: list, dtype: str, workers: int) -> None:
    dataset = write(tmp_path / "set", documents, dtype)
    read: list[int] = []
    found = check_tokens(dataset, 4, 0, workers=workers, progress=read.append)
    flat = [[i for sequence in sequences for i in sequence] for sequences in documents]
    opened = [number for number, ids in enumerate(flat) if ids and ids[-1] != 0]
    assert sum(read) == dataset.token_file.num_bytes
    assert found.largest_id == max((i for ids in flat for i in ids), default=None)
    assert found.eod_seen == any(0 in ids for ids in flat)
    assert found.open_documents == len(opened) and found.first_open == (opened[0] if opened else None)
    assert found.closed_documents == sum(1 for ids in flat if ids and ids[-1] == 0)


@pytest.mark.parametrize("workers", [1, 4])
@pytest.mark.parametrize("value", [7, 65535])
def test_the_first_fault_of_the_file_is_told(tmp_path: Path, workers: int, value: int) -> None:
    ids = [1] * 400
    for place in (123, 124, 300):
        ids[place] = value
    dataset = write(tmp_path / "set", [[ids[:100]], [ids[100:]]])
    with pytest.raises(
        DataError, match=rf"set\.bin, byte 246: id {value} at token 123, in document 1; allowed are 0 to 6"
    ):
        check_tokens(dataset, 7, workers=workers)


def test_of_two_faults_found_at_once_the_first_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dataset = write(tmp_path / "set", [[[9] * 24]])  # two spans, both wrong
    both_have_theirs = threading.Barrier(2, timeout=600)
    read_into = dataset.token_file.read_into

    def wait_and_read(buffer: memoryview, offset: int) -> None:
        both_have_theirs.wait()
        read_into(buffer, offset)

    monkeypatch.setattr(dataset.token_file, "read_into", wait_and_read)
    with pytest.raises(DataError, match="at token 0, in document 0"):
        check_tokens(dataset, 9, workers=2)


def test_shortened_meanwhile(tmp_path: Path) -> None:
    dataset = write(tmp_path / "set", [[[1] * 100]])
    lock = threading.Lock()

    def shorten(count: int) -> None:
        with lock:
            os.truncate(tmp_path / "set.bin", 50)

    with pytest.raises(DataError, match=r"set\.bin: expected .* bytes at byte .*had 200 bytes when it was opened"):
        check_tokens(dataset, 7, workers=2, progress=shorten)


def test_floats_are_no_ids(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="float32"):
        check_tokens(write(tmp_path / "set", [[[1]]], "float32"), 7)


def test_ends(tmp_path: Path) -> None:
    closed, opened = [[1, 0]], [[2, 3, 1]]
    for documents, words in (
        ([closed, closed], None),
        ([opened, closed, opened], r"byte 4: document 0 does not end with id 0.* nor do 1 more; 1 do"),
        ([opened], "does not occur"),
        ([[[1, 0, 1, 1]], [[2, 2, 1, 1]]], None),  # rows of one length may end anywhere
        ([], None),
    ):
        dataset = write(tmp_path / "set", documents)
        problem = end_problem(dataset, check_tokens(dataset, 7, 0), 0)
        assert (problem is None) == (words is None), (documents, problem)
        if words is not None:
            assert re.search(words, str(problem))

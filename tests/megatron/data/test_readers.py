"""Workers: the same batches for any number, errors passed on, a death noticed, nobody left behind."""

import itertools
import os
import signal
import time
from pathlib import Path

import numpy as np
import pytest

from megatron.data.blend import Blend
from megatron.data.index_cache import IndexCache
from megatron.data.indexed_dataset import IndexedDataset, IndexedDatasetWriter
from megatron.data.loader import batches
from megatron.data.make_parts import PartOptions, make_part
from megatron.data.readers import pickled, read_ahead
from megatron.data.schedule import Schedule, read_batches
from megatron.data.source import SampleSource
from megatron.errors import DataError

pytestmark = pytest.mark.multiprocess


def source(folder: Path, order: str = "neox", vocab_size: int = 1000) -> SampleSource:
    """Ids 0..399, of which 300 on stand for damage, in samples of 4."""
    with IndexedDatasetWriter(folder / "set", dtype="int32") as writer:
        writer.add_documents(np.arange(400), np.array([150, 150, 100]))
    options = PartOptions("documents", order, "packed", True, 4, 3, IndexCache(folder / "cache", lambda text: None))
    part = make_part(IndexedDataset(folder / "set"), None, (0, 3), options, name="train", num_samples=99, hashes={})
    return SampleSource([part], Blend([1.0]), vocab_size=vocab_size)


@pytest.mark.parametrize("workers", [1, 3])
@pytest.mark.parametrize("order", ["computed", "neox"])
def test_the_same_batches_as_without(tmp_path: Path, workers: int, order: str) -> None:
    data, schedule = source(tmp_path, order), Schedule(2, 3, 6)
    found = list(itertools.islice(read_ahead(data, schedule, workers), 8))
    for mine, other in zip(found, read_batches(data, schedule), strict=False):
        assert np.array_equal(mine.parts, other.parts)
        assert np.array_equal(mine.samples, other.samples)
        assert np.array_equal(mine.text, other.text)
        assert mine.labels is mine.text


def test_labels_travel_too(tmp_path: Path) -> None:
    with IndexedDatasetWriter(tmp_path / "set", dtype="int32") as writer:
        for length in (3, 5, 2, 9):
            writer.add_document(np.arange(1, length + 1))
    options = PartOptions("documents", "computed", "unpacked", True, 5, 3, IndexCache(None, print))
    part = make_part(IndexedDataset(tmp_path / "set"), None, (0, 4), options, name="", num_samples=0, hashes={})
    data = SampleSource([part], Blend([1.0]), vocab_size=100)
    (mine,) = itertools.islice(read_ahead(data, Schedule(0, 4, 4), 1), 1)
    other = next(read_batches(data, Schedule(0, 4, 4)))
    assert np.array_equal(mine.labels, other.labels)
    assert (mine.labels == -100).any()


def test_a_killed_worker_is_noticed_at_once(tmp_path: Path) -> None:
    reads = read_ahead(source(tmp_path, "computed"), Schedule(0, 2, 2), 2)
    next(reads)
    victim = children()[-1]
    os.kill(victim, signal.SIGKILL)
    start = time.monotonic()
    with pytest.raises(DataError, match=rf"process {victim}\) was killed by SIGKILL.*num_workers: 0"):
        for _ in range(100_000):  # what it had sent is still read
            next(reads)
    assert time.monotonic() - start < 120
    assert children() == []


def test_what_a_worker_finds_wrong_is_said_by_training(tmp_path: Path) -> None:
    reads = read_ahead(source(tmp_path, vocab_size=300), Schedule(0, 9, 9), 2)
    with pytest.raises(DataError, match=r"set\.bin, byte \d+: id 3\d\d at token 3\d\d.*vocabulary has 300 ids"):
        for _ in range(20):
            next(reads)


def test_the_end_of_a_fixed_order_is_an_error_not_a_start_over(tmp_path: Path) -> None:
    data = source(tmp_path)
    reads = read_ahead(data, Schedule(0, 7, 7), 2)
    taken = 0
    with pytest.raises(DataError, match="was asked for, and this order has 99"):
        for _ in range(100):
            taken += len(next(reads).text)
    assert taken == 98


def test_workers_end_with_the_generator(tmp_path: Path) -> None:
    endless = source(tmp_path, "computed")  # a worker that has read everything would end by itself
    stream = batches(endless, seq_length=4, consumed_samples=0, micro_batch_size=2, dp_rank=0, dp_size=1, workers=2)
    assert children() == [], "nothing starts before it is asked for"
    next(stream)
    deadline = time.monotonic() + 120
    while len(children()) < 2 and time.monotonic() < deadline:
        time.sleep(0.01)
    assert len(children()) == 2
    stream.close()
    assert children() == []


def test_mapped_arrays_travel_by_name(tmp_path: Path) -> None:
    """A worker must not be sent the index of 134 million documents."""
    np.save(tmp_path / "big.npy", np.zeros(1 << 20))
    mapped = np.load(tmp_path / "big.npy", mmap_mode="r")
    assert len(pickled(mapped)) < 500
    assert len(pickled(mapped[1:3])) < 500, "a part is small enough to go as it is"


def children() -> list[int]:
    """Live child processes of this one that read data."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            command = (folder / "cmdline").read_text()
        except (OSError, ValueError):
            continue
        if parent == os.getpid() and "reading_process" in command:
            found.append(int(folder.name))
    return sorted(found)

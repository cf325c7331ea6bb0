"""The compiled loops against their NumPy twins, and both against something too simple to be wrong."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from megatron.data import kernels
from tests.megatron.data.neox_goldens import helper

__all__ = ["helper"]
REPOSITORY = Path(__file__).resolve().parents[3]
FIXTURE = settings(max_examples=40)


@FIXTURE
@given(
    size=st.integers(0, 3000),
    kind=st.sampled_from(["int32", "uint32", "int64", "int16"]),
    seed=st.integers(0, 2**32 - 1),
)
def test_shuffle_is_numpys(helper: str, size: int, kind: str, seed: int) -> None:
    mine, other = np.arange(size).astype(kind), np.arange(size).astype(kind)
    generators = [np.random.RandomState(seed) for _ in range(2)]
    for _ in range(2):  # the second from wherever the first left the generator
        kernels.shuffle(mine, generators[0])
        generators[1].shuffle(other)
        assert np.array_equal(mine, other)
    assert generators[0].randint(2**31, size=9).tolist() == generators[1].randint(2**31, size=9).tolist()


def test_a_long_shuffle_is_numpys(helper: str) -> None:
    mine, other = np.arange(300_001, dtype=np.int32), np.arange(300_001, dtype=np.int32)
    kernels.shuffle(mine, np.random.RandomState(7))
    np.random.RandomState(7).shuffle(other)
    assert np.array_equal(mine, other)


def brute_force_starts(lengths: list[int], seq_length: int, count: int) -> list[tuple[int, int]]:
    """Walk token by token; the start of sample k is where token k * seq_length lies."""
    places = [(k, offset) for k, length in enumerate(lengths) for offset in range(length)]
    return [places[k * seq_length] for k in range(count)]


@FIXTURE
@given(
    lengths=st.lists(st.integers(0, 9), min_size=1, max_size=30).filter(lambda lengths: lengths[0] > 0),
    seq_length=st.integers(1, 12),
    block=st.integers(1, 5),
    kinds=st.tuples(st.sampled_from(["int32", "int64"]), st.sampled_from(["int32", "int64"])),
    small=st.booleans(),
)
def test_cut_in_blocks(
    helper: str, lengths: list[int], seq_length: int, block: int, kinds: tuple[str, str], small: bool
) -> None:
    count = (sum(lengths) - 1) // seq_length + 1
    documents = np.arange(len(lengths))[::-1].astype(kinds[0])
    sizes = np.array(lengths[::-1], np.int32)
    rows = np.empty((count, 2), kinds[1])
    start, old = (0, 0), kernels.BLOCK
    kernels.BLOCK = 3 if small else old
    try:
        for first in range(0, count, block):
            start = kernels.cut(documents, sizes, seq_length, start, rows[first : first + block])
    finally:
        kernels.BLOCK = old
    assert rows.tolist() == [list(pair) for pair in brute_force_starts(lengths, seq_length, count)]


def test_cut_reads_sizes_where_a_mapped_index_has_them(helper: str) -> None:
    """The sizes of an index start at byte 34, so they are not aligned."""
    raw = b"xx" + np.array([5, 3, 4], "<i4").tobytes()
    sizes = np.frombuffer(raw, "<i4", 3, 2)
    rows = np.empty((4, 2), np.int32)
    assert kernels.cut(np.array([2, 0, 1], np.int32), sizes, 3, (0, 0), rows) == (3, 0)
    assert rows.tolist() == [[0, 0], [0, 3], [1, 2], [2, 0]]


def test_cut_says_when_documents_end_too_early(helper: str) -> None:
    with pytest.raises(ValueError, match="end before the samples do"):
        kernels.cut(np.array([0], np.int32), np.array([5], np.int32), 3, (0, 0), np.empty((3, 2), np.int32))


@FIXTURE
@given(weights=st.lists(st.integers(0, 9), min_size=1, max_size=6).filter(any), steps=st.integers(1, 80))
def test_blend_takes_who_lags_most(helper: str, weights: list[int], steps: int) -> None:
    shares = np.array(weights, np.float64) / sum(weights)
    taken, chosen = np.zeros(len(weights), np.int64), np.empty(steps, np.uint8)
    half = steps // 2
    kernels.blend(shares, taken, 0, chosen[:half])
    kernels.blend(shares, taken, half, chosen[half:])
    counts = np.zeros(len(weights))
    for step in range(steps):
        best = int(np.argmax(shares * max(step, 1) - counts))
        assert chosen[step] == best
        counts[best] += 1
    assert taken.tolist() == counts.tolist()


@FIXTURE
@given(lengths=st.lists(st.integers(1, 9), min_size=1, max_size=40), room=st.integers(9, 20))
def test_pack_fills_until_the_next_would_not_fit(helper: str, lengths: list[int], room: int) -> None:
    starts = kernels.pack(np.array(lengths, np.int32), room).tolist()
    assert starts[0] == 0
    for begin, end in zip(starts, [*starts[1:], len(lengths)], strict=True):
        assert sum(lengths[begin:end]) <= room
        if end < len(lengths):
            assert sum(lengths[begin : end + 1]) > room


def test_without_a_compiler_the_build_goes_on(tmp_path: Path) -> None:
    """`pip install -e .` must work on a machine that has none; NumPy does the work then."""
    pytest.importorskip("pybind11")
    command = [sys.executable, "setup.py", "build_ext", "--build-lib", str(tmp_path), "--build-temp", str(tmp_path)]
    environment = os.environ | {"CC": "/no/compiler", "CXX": "/no/compiler"}
    done = subprocess.run(command, cwd=REPOSITORY, env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    assert "failed" in done.stderr
    assert not list(tmp_path.rglob("*.so"))

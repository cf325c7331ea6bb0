"""Positions of one rank, read in order whatever is located at once."""

import itertools

import numpy as np
import pytest

from megatron.data import schedule
from megatron.data.schedule import Schedule, read_batches
from megatron.errors import DataError


class Positions:
    """What it reads at a position is the position; it may end."""

    def __init__(self, size: int | None = None) -> None:
        self.size = size

    def locate(self, positions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        if self.size is not None and positions.max() >= self.size:
            raise DataError("the end")
        return np.zeros_like(positions), positions

    def read_located(self, parts: np.ndarray, samples: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        rows = samples[:, None]
        return rows, rows


def test_positions() -> None:
    assert Schedule(10, 2, 6).positions(np.array([0, 2])).tolist() == [[10, 11], [22, 23]]


@pytest.mark.parametrize("ahead", [1, 5, 4096])
def test_every_stride_takes_its_share(monkeypatch: pytest.MonkeyPatch, ahead: int) -> None:
    monkeypatch.setattr(schedule, "LOOK_AHEAD", ahead)
    for stride in (1, 3):
        shares = [itertools.islice(read_batches(Positions(), Schedule(4, 2, 6), k, stride), 5) for k in range(stride)]
        taken = [read.samples.tolist() for row in zip(*shares, strict=True) for read in row]
        assert taken == [[4 + 6 * k, 5 + 6 * k] for k in range(5 * stride)]


def test_all_that_is_there_is_read_before_the_end_is_reported() -> None:
    reads = read_batches(Positions(7), Schedule(0, 2, 2))
    assert [next(reads).samples.tolist() for _ in range(3)] == [[0, 1], [2, 3], [4, 5]]
    with pytest.raises(DataError, match="the end"):
        next(reads)

"""Positions of the data's order that a run leaves out, for example a stretch that made the loss jump."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from megatron.data.schedule import Source


class Skip:
    """Ranges [start, end) of positions, merged. A kept position has a number among the kept ones, and back."""

    def __init__(self, ranges: Iterable[Sequence[int]] = ()) -> None:
        merged: list[tuple[int, int]] = []
        for start, end in sorted((start, end) for start, end in ranges if start < end):
            if merged and start <= merged[-1][1]:
                merged[-1] = (merged[-1][0], max(end, merged[-1][1]))
            else:
                merged.append((start, end))
        self.ranges = tuple(merged)
        lengths = np.array([end - start for start, end in merged], np.int64)
        self._skipped = np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths)])
        starts = np.array([start for start, _ in merged], np.int64)
        self._first_number = starts - self._skipped[:-1]  # kept positions before each range

    def positions(self, numbers: np.ndarray) -> np.ndarray:
        """Where the kept positions of these numbers (from 0) lie in the order. int64, any shape."""
        return numbers + self._skipped[np.searchsorted(self._first_number, numbers, side="right")]

    def number(self, position: int) -> int:
        """How many kept positions lie before this one."""
        return position - sum(min(end, position) - start for start, end in self.ranges if start < position)

    def after(self, position: int, samples: int) -> int:
        """The position from which to go on after reading `samples` kept ones from `position` on."""
        return int(self.positions(np.array([self.number(position) + samples - 1]))[0]) + 1 if samples else position


@dataclass(frozen=True)
class SkippingSource:
    """A source without the skipped positions; the rest closes up."""

    source: Source
    skip: Skip

    def locate(self, positions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return self.source.locate(self.skip.positions(positions))

    def read_located(self, parts: np.ndarray, samples: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return self.source.read_located(parts, samples)

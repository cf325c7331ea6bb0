"""Which positions one rank reads, micro-batch by micro-batch, and the reading itself; no torch here."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from megatron.errors import DataError

LOOK_AHEAD = 512  # positions located at once: the order's arithmetic costs the same for one as for hundreds


@dataclass(frozen=True)
class Schedule:
    """Micro-batch k of a rank is positions first + k * step .. + micro_batch_size - 1 of the whole run's samples."""

    first: int
    micro_batch_size: int
    step: int

    def positions(self, numbers: np.ndarray) -> np.ndarray:
        """int64 [micro-batches, micro_batch_size]."""
        return self.first + numbers[:, None] * self.step + np.arange(self.micro_batch_size)


@dataclass(frozen=True)
class Read:
    """A micro-batch as read.

    parts, samples: int64 [batch], which sample of which set. text, labels: int64 [batch, seq + 1].
    """

    parts: np.ndarray
    samples: np.ndarray
    text: np.ndarray
    labels: np.ndarray


class Source(Protocol):
    """What `read_batches` needs of a SampleSource."""

    def locate(self, positions: np.ndarray) -> tuple[np.ndarray, np.ndarray]: ...

    def read_located(self, parts: np.ndarray, samples: np.ndarray) -> tuple[np.ndarray, np.ndarray]: ...


def read_batches(source: Source, schedule: Schedule, first: int = 0, stride: int = 1) -> Iterator[Read]:
    """Micro-batches first, first + stride, ... of the schedule, endlessly; DataError where the source ends."""
    size = schedule.micro_batch_size
    ahead = max(1, LOOK_AHEAD // size)
    number = first
    while True:
        try:
            located = source.locate(schedule.positions(number + stride * np.arange(ahead)).ravel())
        except DataError:
            if ahead == 1:
                raise
            ahead = 1  # the end is near
            continue
        for start in range(0, ahead * size, size):
            parts, samples = (values[start : start + size] for values in located)
            yield Read(parts, samples, *source.read_located(parts, samples))
        number += ahead * stride

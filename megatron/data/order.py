"""The order of samples: a permutation per epoch that is computed, not stored.

A Feistel network turns pairs (left, right) below a square into other pairs, one to one; numbers that land beyond the
last sample go through it again (cycle walking). Any position is found in constant time and memory, so the order is
the same for every number of ranks and every planned length of the run. Keys come from (seed, name, epoch).
"""

import hashlib
import math
from dataclasses import dataclass
from typing import Protocol

import numpy as np

ROUNDS = 6


class Order(Protocol):
    """Which sample of a data set stands at a position. size: samples there are."""

    @property
    def size(self) -> int: ...

    def samples_at(self, positions: np.ndarray) -> np.ndarray:
        """Sample numbers at `positions`: int64, same shape."""
        ...


@dataclass(frozen=True)
class SampleOrder:
    """Which of `size` samples stands at a position. Every epoch shows each sample once, in an order of its own.

    name: keeps sets of equal size from being shuffled alike, for instance "train/0".
    """

    size: int
    seed: int
    name: str = ""

    def __post_init__(self) -> None:
        if self.size < 1:
            raise ValueError(f"an order needs at least one sample, got {self.size}")

    def samples_at(self, positions: np.ndarray) -> np.ndarray:
        """Sample numbers at `positions`, which count on over all epochs: int64, same shape."""
        positions = np.asarray(positions, dtype=np.int64)
        if positions.size and positions.min() < 0:
            raise IndexError(f"position {positions.min()} is negative")
        epochs, places = np.divmod(positions, self.size)
        samples = np.empty_like(places)
        for epoch in np.unique(epochs):
            here = epochs == epoch
            samples[here] = permute(places[here], self.size, self._keys(int(epoch)))
        return samples

    def sample_at(self, position: int) -> int:
        return int(self.samples_at(np.array([position]))[0])

    def _keys(self, epoch: int) -> np.ndarray:
        text = f"{self.seed}\0{self.name}\0{epoch}".encode()
        return np.frombuffer(hashlib.blake2b(text, digest_size=8 * ROUNDS).digest(), "<u8")


def permute(numbers: np.ndarray, size: int, keys: np.ndarray) -> np.ndarray:
    """A permutation of 0..size-1 chosen by `keys` (uint64, one per round), applied to `numbers`."""
    side = np.uint64(math.isqrt(size - 1) + 1)  # the smallest square that holds every number: walks are short
    result = np.asarray(numbers).astype(np.uint64)
    waiting = np.arange(result.size)
    while waiting.size:
        left, right = np.divmod(result[waiting], side)
        for key in keys:
            left, right = right, (left + mix(right ^ key) % side) % side
        result[waiting] = left * side + right
        waiting = waiting[result[waiting] >= size]
    return result.astype(np.int64)


def mix(values: np.ndarray) -> np.ndarray:
    """Scatter 64 bits over 64 bits: the finaliser of SplitMix64 (Steele, Lea, Flood 2014); wraps on purpose."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))

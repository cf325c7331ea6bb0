"""Orders that end: samples in the order of the file, or of a stored permutation. Neither starts over by itself."""

from dataclasses import dataclass

import numpy as np

from megatron.errors import DataError


@dataclass(frozen=True)
class InOrder:
    """Sample i at position i, as the preshuffled Pythia sets are meant to be read."""

    size: int

    def samples_at(self, positions: np.ndarray) -> np.ndarray:
        """DataError past the last sample."""
        positions = np.asarray(positions, np.int64)
        _check(positions, self.size)
        return positions


@dataclass(frozen=True)
class StoredOrder:
    """A stored permutation (GPT-NeoX's shuffle_idx): sample permutation[i] at position i."""

    permutation: np.ndarray

    @property
    def size(self) -> int:
        return len(self.permutation)

    def samples_at(self, positions: np.ndarray) -> np.ndarray:
        """DataError past the last sample."""
        positions = np.asarray(positions, np.int64)
        _check(positions, self.size)
        return self.permutation[positions].astype(np.int64)


def _check(positions: np.ndarray, size: int) -> None:
    if not positions.size:
        return
    if positions.min() < 0:
        raise IndexError(f"position {positions.min()} is negative")
    if positions.max() >= size:
        raise DataError(
            f"sample {positions.max()} was asked for, and this order has {size} samples. It does not start over: "
            "lower train_iters, or add data."
        )

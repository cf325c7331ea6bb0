"""Mixtures beside the plain one: weights that change at a sample count, and GPT-NeoX's stored blending."""

from bisect import bisect_right
from collections.abc import Sequence

import numpy as np

from megatron.data import kernels
from megatron.data.blend import Blend
from megatron.data.index_cache import ArrayWriter
from megatron.errors import DataError

STRIDE = 4096  # positions between two rows of stored counts


class ChangingBlend:
    """Weights that hold from a position on, until the next change. Every set goes on where it was: nothing repeats.

    stages: (first position, weights), the first at position 0, positions rising.
    """

    size: int | None = None

    def __init__(self, stages: Sequence[tuple[int, Sequence[float]]]) -> None:
        self.starts = [start for start, _ in stages]
        if self.starts[0] != 0 or any(b <= a for a, b in zip(self.starts, self.starts[1:], strict=False)):
            raise ValueError(f"stages start at 0 and rise, found {self.starts}")
        self.blends = [Blend(weights) for _, weights in stages]
        self._before = [np.zeros(len(stages[0][1]), np.int64)]  # samples of each set before each stage
        for blend, start, end in zip(self.blends, self.starts, self.starts[1:], strict=False):
            self._before.append(self._before[-1] + blend.taken(end - start))

    @property
    def shares(self) -> tuple[float, ...]:
        """At the start."""
        return self.blends[0].shares

    def locate(self, positions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Set number and position within the set for each position: two int64 arrays of the same shape."""
        positions = np.asarray(positions, np.int64)
        sets, places = np.empty_like(positions), np.empty_like(positions)
        stages = np.searchsorted(self.starts, positions, side="right") - 1
        for stage in np.unique(stages) if positions.size else ():
            here = stages == stage
            if stage < 0:
                raise IndexError(f"position {positions.min()} is negative")
            sets[here], within = self.blends[stage].locate(positions[here] - self.starts[stage])
            places[here] = within + self._before[stage][sets[here]]
        return sets, places

    def taken(self, steps: int) -> np.ndarray:
        """How many of the first `steps` positions each set has: int64 [sets]."""
        stage = bisect_right(self.starts, max(steps, 0)) - 1
        return self._before[stage] + self.blends[stage].taken(steps - self.starts[stage])

    def as_manifest(self) -> list[dict[str, object]]:
        """JSON-able: position and weights of every change."""
        return [
            {"samples": start, "weights": list(blend.weights)}
            for start, blend in zip(self.starts, self.blends, strict=True)
        ]


class StoredBlend:
    """GPT-NeoX's dataset_index, with counts every `STRIDE` positions in place of its dataset_sample_index.

    sets: uint8 or int16 [size].  counts: int64 [size / STRIDE rounded up, sets], taken before that position.
    """

    def __init__(self, shares: Sequence[float], sets: np.ndarray, counts: np.ndarray) -> None:
        self.shares = tuple(shares)
        self._sets, self._counts = sets, counts

    @property
    def size(self) -> int | None:
        return len(self._sets)

    def locate(self, positions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Set number and position within the set for each position: two int64 arrays of the same shape."""
        positions = np.asarray(positions, np.int64)
        if positions.size and not (positions.min() >= 0 and positions.max() < len(self._sets)):
            raise DataError(
                f"sample {positions.max()} was asked for, and the mixture was built for {len(self._sets)}. GPT-NeoX's "
                "order does not start over: raise train_iters before the run starts."
            )
        sets, places = np.empty_like(positions), np.empty_like(positions)
        for block in np.unique(positions // STRIDE):
            here = positions // STRIDE == block
            chosen = np.asarray(self._sets[block * STRIDE : (block + 1) * STRIDE]).astype(np.int64)
            ranks = np.empty_like(chosen)
            for k in np.unique(chosen):
                ranks[chosen == k] = self._counts[block, k] + np.arange(np.count_nonzero(chosen == k))
            within = positions[here] - block * STRIDE
            sets[here], places[here] = chosen[within], ranks[within]
        return sets, places


def write_blend(writer: ArrayWriter, weights: Sequence[float], size: int) -> None:
    """Save "sets" [size] and "counts" for a `StoredBlend` of GPT-NeoX's rule."""
    shares = np.array(weights, np.float64)
    shares /= shares.sum()
    taken = np.zeros(len(shares), np.int64)
    sets = np.empty(size, np.uint8 if len(shares) < 255 else np.int16)
    counts = np.empty((-(-size // STRIDE), len(shares)), np.int64)
    for row in range(len(counts)):
        counts[row] = taken
        kernels.blend(shares, taken, row * STRIDE, sets[row * STRIDE : (row + 1) * STRIDE])
    writer.save("sets", sets)
    writer.save("counts", counts)

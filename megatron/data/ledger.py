"""A running check of what was trained on: one 64-bit hash over the samples of a step, whatever their order.

The hash of a step is the sum of the hashes of its samples, so ranks add theirs up, and the same step has the same hash
for every number of ranks and micro-batches. Two runs whose ledgers agree have seen the same samples at the same steps.
"""

from collections.abc import Iterator

import numpy as np

from megatron.data.batch import Batch
from megatron.data.order import mix


class Ledger:
    """Adds up the samples that pass through `watch`; counts on the side of the consumer, not of the reader."""

    def __init__(self) -> None:
        self._sum = np.zeros(1, np.uint64)
        self._count = 0

    def watch(self, batches: Iterator[Batch]) -> Iterator[Batch]:
        """The same batches, noted down as they are taken."""
        for batch in batches:
            self._sum += sample_hashes(batch.sample_ids.numpy()).sum(dtype=np.uint64)
            self._count += len(batch.sample_ids)
            yield batch

    def take(self) -> tuple[int, int]:
        """(sum as a signed 64-bit number, samples) since the last call."""
        found = int(self._sum.view(np.int64)[0]), self._count
        self._sum[:] = 0
        self._count = 0
        return found


def sample_hashes(sample_ids: np.ndarray) -> np.ndarray:
    """sample_ids: int64 [samples, 2], set and sample -> uint64 [samples]."""
    sets, samples = sample_ids.astype(np.uint64).T
    return mix(mix(sets + np.uint64(1)) ^ samples)


def as_hex(signed: int) -> str:
    """16 digits of a sum that `take` gave, or of the total of several."""
    return f"{signed % 2**64:016x}"

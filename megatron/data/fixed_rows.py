"""Preshuffled sets: every sequence is one sample, as in pile-standard-pythia-preshuffled (rows of 2049 tokens)."""

from dataclasses import dataclass

import numpy as np

from megatron.data.indexed_dataset import IndexedDataset
from megatron.data.pieces import Pieces
from megatron.data.samples import check_numbers, check_range
from megatron.errors import DataError

BLOCK = 1 << 20


@dataclass(frozen=True)
class FixedRows:
    """Rows [first_row, last_row) of a set whose sequences all have seq_length + 1 tokens; DataError for others."""

    dataset: IndexedDataset
    first_row: int
    last_row: int
    seq_length: int

    def __post_init__(self) -> None:
        check_range(self.dataset, self.first_row, self.last_row, self.dataset.num_sequences)
        if self.first_row == self.last_row:
            raise DataError(f"{self.dataset.prefix}: rows {self.first_row} to {self.last_row} are none.")
        width = self.seq_length + 1
        for start in range(self.first_row, self.last_row, BLOCK):
            sizes = self.dataset.sizes[start : min(start + BLOCK, self.last_row)]
            if (sizes != width).any():
                row = start + int(np.argmax(sizes != width))
                raise DataError(
                    f"{self.dataset.prefix}: row {row} has {self.dataset.sizes[row]} tokens, expected seq_length + 1 = "
                    f"{width} in every row of a preshuffled set. Set seq_length to the rows' length less one, or "
                    "data_kind: documents."
                )

    def __len__(self) -> int:
        return self.last_row - self.first_row

    def pieces(self, numbers: np.ndarray) -> Pieces:
        """One piece a sample."""
        check_numbers(self, numbers)
        starts, counts = self.dataset.sequence_spans(self.first_row + np.asarray(numbers, np.int64))
        return Pieces(len(starts), np.arange(len(starts)), np.zeros(len(starts), np.int64), starts, counts)

    def describe(self) -> str:
        return (
            f"rows {self.first_row} to {self.last_row - 1} in their order, {len(self):,} samples of {self.seq_length}"
        )

"""Which stretches of a `.bin` make up samples: the common language of all ways to cut or pack documents."""

from dataclasses import dataclass
from typing import Protocol

import numpy as np

from megatron.data.indexed_dataset import IndexedDataset


@dataclass(frozen=True)
class Pieces:
    """Stretches of tokens for a table of `num_rows` samples, int64 arrays of one length each.

    Piece k is tokens [starts[k], starts[k] + counts[k]) of the `.bin`, to stand in row rows[k] from column
    columns[k] on. What no piece covers is padding.
    """

    num_rows: int
    rows: np.ndarray
    columns: np.ndarray
    starts: np.ndarray
    counts: np.ndarray

    def covered(self) -> np.ndarray:
        """Tokens in each row; pieces fill a row from the left: int64 [num_rows]."""
        return np.bincount(self.rows, self.counts, minlength=self.num_rows).astype(np.int64)

    def token_at(self, row: int, column: int) -> int:
        """Which token of the `.bin` stands there."""
        here = (self.rows == row) & (self.columns <= column) & (column < self.columns + self.counts)
        (piece,) = np.flatnonzero(here)
        return int(self.starts[piece] + column - self.columns[piece])


class Samples(Protocol):
    """The samples of one data set: documents cut or packed in one way or another."""

    @property
    def dataset(self) -> IndexedDataset: ...

    @property
    def seq_length(self) -> int: ...

    def __len__(self) -> int: ...

    def pieces(self, numbers: np.ndarray) -> Pieces:
        """Where samples `numbers` lie: at most seq_length + 1 tokens a row. IndexError beyond the last sample."""
        ...

    def describe(self) -> str:
        """Documents, tokens, samples, in one line."""
        ...


def fill(table: np.ndarray, dataset: IndexedDataset, pieces: Pieces) -> None:
    """Read the pieces into `table` [rows, columns], C-contiguous, of the data set's own dtype."""
    width, itemsize = table.shape[1], table.dtype.itemsize
    targets = (pieces.rows * width + pieces.columns) * itemsize
    lengths, offsets = pieces.counts * itemsize, pieces.starts * itemsize
    dataset.token_file.read_many(table.data.cast("B"), targets.tolist(), lengths.tolist(), offsets.tolist())


def read(dataset: IndexedDataset, pieces: Pieces, width: int, padding: int) -> np.ndarray:
    """The tokens of the pieces in the data set's own dtype: [num_rows, width], `padding` where there is none."""
    whole = len(pieces.rows) == pieces.num_rows and bool((pieces.counts == width).all())
    table = np.empty((pieces.num_rows, width), dataset.dtype)
    if not whole:
        table.fill(padding)
    fill(table, dataset, pieces)
    return table

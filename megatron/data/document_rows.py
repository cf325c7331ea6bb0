"""Samples made of documents in a given row: where each sample starts in the row is stored (GPT-NeoX's sample_idx)."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from megatron.data.indexed_dataset import IndexedDataset
from megatron.data.pieces import Pieces
from megatron.data.samples import check_numbers

Spans = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]


@dataclass(frozen=True)
class DocumentRows:
    """Sample i runs from starts[i] to starts[i + 1] in the row; what exceeds seq_length + 1 tokens is cut off.

    documents: numbers of documents (or sequences) in the order they are read, [entries].
    starts: [samples + 1, 2], position in `documents` and offset in tokens there.
    spans: numbers -> (first token in the `.bin`, number of tokens).
    overlap: 1 where a sample ends with the token its follower begins with, 0 where it ends before it.
    """

    dataset: IndexedDataset
    seq_length: int
    documents: np.ndarray
    starts: np.ndarray
    spans: Spans
    overlap: int
    kind: str

    def __len__(self) -> int:
        return len(self.starts) - 1

    def pieces(self, numbers: np.ndarray) -> Pieces:
        """One piece for every document that a sample touches."""
        check_numbers(self, numbers)
        numbers = np.asarray(numbers, np.int64)
        begin, end = self.starts[numbers].astype(np.int64), self.starts[numbers + 1].astype(np.int64)
        # The row may end where the last sample does: then there is no token to share.
        ends_beyond = end[:, 0] >= len(self.documents)
        touched = end[:, 0] - begin[:, 0] + ~ends_beyond  # documents, the one with the shared token included
        rows = np.repeat(np.arange(len(numbers)), touched)
        within = np.arange(len(rows)) - np.repeat(np.cumsum(touched) - touched, touched)
        positions = np.repeat(begin[:, 0], touched) + within
        tokens, lengths = self.spans(self.documents[positions])
        skipped = np.where(within == 0, begin[rows, 1], 0)
        stop = np.where(positions == end[rows, 0], end[rows, 1] + self.overlap, lengths)
        counts = np.maximum(np.minimum(stop, lengths) - skipped, 0)
        before = np.cumsum(counts) - counts
        first_of_row = (np.cumsum(touched) - touched)[rows]
        columns = before - before[first_of_row]
        counts = np.minimum(counts, np.maximum(self.seq_length + 1 - columns, 0))
        kept = counts > 0
        return Pieces(len(numbers), rows[kept], columns[kept], (tokens + skipped)[kept], counts[kept])

    def describe(self) -> str:
        return f"{self.kind}, {len(self.documents):,} documents in a row, {len(self):,} samples of {self.seq_length}"

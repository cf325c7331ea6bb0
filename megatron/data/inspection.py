"""What is in a data set: lengths, ids and their frequencies, equal documents. Reads all or evenly spread parts."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from megatron.data.document_hashes import document_hashes, spans_of_documents
from megatron.data.indexed_dataset import IndexedDataset
from megatron.errors import DataError

PARTS = 64
QUANTILES = {"shortest": 0.0, "median": 0.5, "p90": 0.9, "p99": 0.99, "longest": 1.0}


@dataclass(frozen=True)
class Inspection:
    """Figures of a data set. Shares are parts of 1.

    lengths: tokens a document, by name of QUANTILES and "mean".  looked_at: tokens that the id figures come from.
    ids: counts int64 [largest id + 1].  repeated_documents: equal to an earlier one, of compared_documents; repeats:
    (document, earlier one) examples.
    """

    documents: int
    empty_documents: int
    sequences: int
    tokens: int
    lengths: dict[str, float]
    looked_at: int
    ids: np.ndarray
    compared_documents: int
    repeated_documents: int
    repeats: list[tuple[int, int]] = field(default_factory=list)

    @property
    def distinct_ids(self) -> int:
        return int(np.count_nonzero(self.ids))

    def share_of(self, ids: Sequence[int]) -> float:
        """Part of the tokens looked at that are one of `ids`."""
        inside = [i for i in set(ids) if i < len(self.ids)]
        return float(self.ids[inside].sum() / max(1, self.looked_at))

    def most_frequent(self, count: int) -> list[tuple[int, float]]:
        """(id, share) of the `count` most frequent ids, ties by id."""
        order = np.lexsort((np.arange(len(self.ids)), -self.ids))[:count]
        return [(int(i), float(self.ids[i] / max(1, self.looked_at))) for i in order if self.ids[i]]


def inspect(
    dataset: IndexedDataset, max_tokens: int, progress: Callable[[int], None] = lambda count: None
) -> Inspection:
    """Look at all documents when they have `max_tokens` or fewer, else at 64 evenly spread stretches of as many.

    DataError for side files of floats, and for negative ids (a label file).
    """
    if dataset.dtype.kind not in "iu":
        raise DataError(f"{dataset.token_file.name}: holds {dataset.dtype.name} numbers, and token ids are integers.")
    counts = np.zeros(0, dtype=np.int64)
    hashes, numbers = [], []
    for first, last in stretches(dataset, max_tokens):
        for number, tokens, _ in spans_of_documents(dataset, first, last):
            if len(tokens) and tokens.min() < 0:
                where = dataset.first_token(number) + int(np.argmax(tokens < 0))
                raise DataError(
                    f"{dataset.place_of_token(where)}: id {tokens.min()} at token {where} is negative. "
                    "Is this a label file?"
                )
            more = np.bincount(tokens, minlength=len(counts))
            more[: len(counts)] += counts
            counts = more
            progress(tokens.nbytes)
        hashes.append(document_hashes(dataset, first, last))
        numbers.append(np.arange(first, last))
    all_hashes, all_numbers = np.concatenate(hashes), np.concatenate(numbers)
    repeated, repeats = _repeats(all_hashes, all_numbers)
    lengths = document_lengths(dataset)
    return Inspection(
        documents=dataset.num_documents,
        empty_documents=int(np.count_nonzero(lengths == 0)),
        sequences=dataset.num_sequences,
        tokens=dataset.num_tokens,
        lengths=_quantiles(lengths),
        looked_at=int(counts.sum()),
        ids=counts,
        compared_documents=int(np.count_nonzero(all_hashes)),
        repeated_documents=repeated,
        repeats=repeats,
    )


def stretches(dataset: IndexedDataset, max_tokens: int) -> list[tuple[int, int]]:
    """Ranges of documents, disjoint and in order, with about `max_tokens` tokens in all (or everything)."""
    if dataset.num_tokens <= max_tokens:
        return [(0, dataset.num_documents)]
    found: list[tuple[int, int]] = []
    for part in range(PARTS):
        start = dataset.num_tokens * part // PARTS
        first = max(dataset.document_at(start), found[-1][1] if found else 0)
        last = min(dataset.document_at(start + max_tokens // PARTS) + 1, dataset.num_documents)
        if first < last:
            found.append((first, last))
    return found


def document_lengths(dataset: IndexedDataset) -> np.ndarray:
    """Tokens of each document: int64 [documents]."""
    return np.diff(dataset.document_starts(0, dataset.num_documents + 1))


def rows_of(dataset: IndexedDataset, seq_length: int, count: int) -> np.ndarray:
    """`count` evenly spread rows of `seq_length` tokens, fewer of both for want of tokens: int64 [rows, seq]."""
    length = min(seq_length, dataset.num_tokens)
    rows = max(1, min(count, dataset.num_tokens // max(1, length)))
    starts = np.linspace(0, dataset.num_tokens - length, rows).astype(np.int64)
    return np.stack([dataset.tokens(int(start), length).astype(np.int64) for start in starts])


def _quantiles(lengths: np.ndarray) -> dict[str, float]:
    if not len(lengths):
        return {}
    found = {name: float(np.quantile(lengths, q, method="lower")) for name, q in QUANTILES.items()}
    return found | {"mean": float(lengths.mean())}


def _repeats(hashes: np.ndarray, numbers: np.ndarray) -> tuple[int, list[tuple[int, int]]]:
    """Documents whose hash occurred before (0 means too short to count), and five (document, first like it) pairs."""
    kept, numbers = hashes[hashes != 0], numbers[hashes != 0]
    _, firsts, inverse = np.unique(kept, return_index=True, return_inverse=True)
    is_repeat = firsts[inverse] != np.arange(len(kept))
    examples = np.flatnonzero(is_repeat)[:5]
    return int(is_repeat.sum()), [(int(numbers[i]), int(numbers[firsts[inverse[i]]])) for i in examples]

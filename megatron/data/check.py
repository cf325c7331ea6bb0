"""Look through every token of a data set: ids inside the vocabulary, documents that end as they should. No torch.

Reads the file through small blocks in several threads, at the speed of the disk or of memory, in constant memory.
"""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from megatron.data.indexed_dataset import IndexedDataset
from megatron.errors import DataError

BLOCK_BYTES = 1 << 20  # read and looked at in one go: it stays in the cache of a core
SPAN_BYTES = 1 << 24  # handed to a thread in one go
IGNORED_LABEL = -100

Report = Callable[[int], None]


@dataclass
class Findings:
    """What was seen in some tokens. largest_id: None where there are none.

    eod_seen: the end-of-document id occurs.  open_documents: documents, not empty, whose last token is another one;
    first_open: the first of them.
    """

    largest_id: int | None = None
    eod_seen: bool = False
    closed_documents: int = 0
    open_documents: int = 0
    first_open: int | None = None

    def add(self, other: "Findings") -> None:
        self.largest_id = max((i for i in (self.largest_id, other.largest_id) if i is not None), default=None)
        self.eod_seen = self.eod_seen or other.eod_seen
        self.closed_documents += other.closed_documents
        self.open_documents += other.open_documents
        self.first_open = min((i for i in (self.first_open, other.first_open) if i is not None), default=None)


def check_tokens(
    dataset: IndexedDataset,
    vocab_size: int,
    eod: int | None = None,
    *,
    labels: bool = False,
    workers: int = 4,
    progress: Report = lambda count: None,
) -> Findings:
    """Read all of it once.

    labels: a label file, in which -100 is allowed too.  DataError at the first id (in the order of the file) outside
    of the vocabulary, with file, byte, token and document; and for a file that is shortened meanwhile.
    """
    if dataset.dtype.kind not in "iu":
        raise DataError(
            f"{dataset.token_file.name}: holds {dataset.dtype.name} numbers, and token ids are integers. "
            "This looks like a side file (rewards, log-probabilities)."
        )
    reader = _Reader(dataset, vocab_size, eod, labels, progress)
    with ThreadPoolExecutor(max(1, workers)) as pool:
        runs = [pool.submit(reader.run) for _ in range(max(1, workers))]
    findings = Findings()
    for run in runs:
        findings.add(run.result())
    if reader.faults:
        raise reader.faults[min(reader.faults)]
    return findings


class _Reader:
    """Hands out spans of a data set in order to the threads that call `run`; the first fault stops all."""

    def __init__(
        self, dataset: IndexedDataset, vocab_size: int, eod: int | None, labels: bool, progress: Report
    ) -> None:
        self.dataset, self.vocab_size, self.eod, self.labels, self.progress = dataset, vocab_size, eod, labels, progress
        self.block_tokens = BLOCK_BYTES // dataset.dtype.itemsize
        self.span_tokens = SPAN_BYTES // dataset.dtype.itemsize
        self.next_start = 0
        self.faults: dict[int, DataError] = {}
        self._lock = threading.Lock()

    def run(self) -> Findings:
        block = np.empty(self.block_tokens, self.dataset.dtype)
        findings = Findings()
        while (start := self._take()) is not None:
            stop = min(start + self.span_tokens, self.dataset.num_tokens)
            try:
                self._look_at_span(start, stop, block, findings)
            except DataError as error:
                self.faults[start] = error
            self.progress((stop - start) * self.dataset.dtype.itemsize)
        return findings

    def _take(self) -> int | None:
        # Spans before a fault are all taken when it is found, so the smallest fault is the first of the file.
        with self._lock:
            start = self.next_start
            self.next_start += self.span_tokens
        return start if start < self.dataset.num_tokens and not self.faults else None

    def _look_at_span(self, start: int, stop: int, block: np.ndarray, findings: Findings) -> None:
        # Each pass over a block costs as much as a fifth of reading it: no pass that the answer does not need.
        dataset = self.dataset
        first = dataset.document_at(start)
        last = dataset.document_at(stop - 1)
        borders = dataset.document_starts(first, min(last + 2, dataset.num_documents + 1))
        for at in range(start, stop, self.block_tokens):
            tokens = block[: stop - at]
            dataset.token_file.read_into(tokens.data.cast("B"), at * dataset.dtype.itemsize)
            largest = int(tokens.max())
            negative = tokens.dtype.kind == "i" and int(tokens.min()) < 0
            if largest >= self.vocab_size or (negative and not self._only_ignored(tokens)):
                raise self._outside(at, tokens)
            findings.largest_id = max(largest, findings.largest_id or 0)
            if self.eod is not None:
                self._look_at_ends(at, tokens, first, borders, findings)
                if not findings.eod_seen:
                    findings.eod_seen = bool(np.any(tokens == self.eod))

    def _look_at_ends(self, at: int, tokens: np.ndarray, first: int, borders: np.ndarray, findings: Findings) -> None:
        """Count the documents that end in the block, by whether their last token is the end of a document.

        borders: where the documents from number `first` on begin, and the last one ends, in tokens of the `.bin`.
        """
        low, high = np.searchsorted(borders[1:], (at, at + len(tokens)), side="right")
        starts, ends = borders[low:high], borders[low + 1 : high + 1]
        numbers = np.flatnonzero(starts < ends) + low + first
        closed = tokens[ends[starts < ends] - 1 - at] == self.eod
        num_closed = int(np.count_nonzero(closed))
        first_open = int(numbers[np.argmin(closed)]) if num_closed < len(closed) else None
        findings.add(Findings(None, num_closed > 0, num_closed, len(closed) - num_closed, first_open))

    def _only_ignored(self, block: np.ndarray) -> bool:
        return self.labels and bool(np.all((block >= 0) | (block == IGNORED_LABEL)))

    def _outside(self, start: int, block: np.ndarray) -> DataError:
        wrong = (block < 0) | (block.astype(np.int64) >= self.vocab_size)
        if self.labels:
            wrong &= block != IGNORED_LABEL
        token = start + int(np.argmax(wrong))
        allowed = f"0 to {self.vocab_size - 1}" + (f" and {IGNORED_LABEL}" if self.labels else "")
        return DataError(
            f"{self.dataset.place_of_token(token)}: id {block[token - start]} at token {token}, in document "
            f"{self.dataset.document_at(token)}; allowed are {allowed} ({np.count_nonzero(wrong)} such ids in this "
            "block). The data were made with another tokenizer (check vocab_file) or are damaged."
        )


def end_problem(dataset: IndexedDataset, findings: Findings, eod: int) -> str | None:
    """What is wrong with the ends of documents, None where nothing is.

    Wrong is: no end-of-document token at all; and documents without one among many that have it, as in a `.bin`
    that belongs to another `.idx`. Rows of one length (packed beforehand) may end anywhere.
    """
    if dataset.num_tokens and not findings.eod_seen:
        return (
            f"{dataset.token_file.name}: id {eod}, the end of a document, does not occur. Models trained on it never "
            "learn to end; tokenise with --append-eod. (The preshuffled Pile is like this: allow it with --no-eod.)"
        )
    if dataset.num_sequences and dataset.sizes.min() == dataset.sizes.max():
        return None
    if findings.first_open is not None:
        last = dataset.first_token(findings.first_open + 1) - 1
        return (
            f"{dataset.place_of_token(last)}: document {findings.first_open} does not end with id {eod}, the end of a "
            f"document, nor do {findings.open_documents - 1} more; {findings.closed_documents} do. The .bin and the "
            ".idx are not of one data set, tokens are displaced, or sets with and without --append-eod were merged."
        )
    return None

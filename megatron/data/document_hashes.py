"""A short hash of every document, to find equal ones within a data set or in two of them."""

import hashlib
import itertools
from collections.abc import Callable, Iterator

import numpy as np

from megatron.data.indexed_dataset import IndexedDataset

SPAN_BYTES = 1 << 23
SHORT = 8  # tokens; equal documents below this length mean nothing


def spans_of_documents(
    dataset: IndexedDataset, first: int, last: int, span_bytes: int = SPAN_BYTES
) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
    """Documents first..last-1 in stretches of about `span_bytes`, whole documents only.

    -> (number of the first document, tokens of the stretch, borders int64 [documents + 1] within it).
    """
    step = max(1, span_bytes // dataset.dtype.itemsize)
    while first < last:
        start = dataset.first_token(first)
        end = dataset.document_at(start + step) if start + step < dataset.num_tokens else last
        end = min(max(end, first + 1), last, first + (1 << 20))  # a million empty documents are a stretch too
        borders = dataset.document_starts(first, end + 1) - start
        yield first, dataset.tokens(start, int(borders[-1])), borders
        first = end


def document_hashes(
    dataset: IndexedDataset, first: int, last: int, progress: Callable[[int], None] = lambda count: None
) -> np.ndarray:
    """uint64 [last - first]: equal for equal tokens; 0 for documents of fewer than `SHORT` tokens.

    Two different documents among a hundred million share a hash with a chance of one in 4,000.
    """
    hashes = np.zeros(last - first, dtype=np.uint64)
    for number, tokens, borders in spans_of_documents(dataset, first, last):
        data = np.ascontiguousarray(tokens.astype("<i4")).data.cast("B")
        offsets = (4 * borders).tolist()
        for place, (begin, end) in enumerate(itertools.pairwise(offsets), start=number - first):
            if end - begin >= 4 * SHORT:
                digest = hashlib.blake2b(data[begin:end], digest_size=8).digest()
                hashes[place] = int.from_bytes(digest, "little") or 1
        progress(tokens.nbytes)
    return hashes

"""Packing kinds for fine-tuning, in which no document is continued in another sample.

pack_until_overflow: whole documents side by side until the next would not fit. unpacked: one document a sample. What is
longer than a sample is cut, or left out (allow_chopped false); documents without a single label inside are left out.
"""

from collections.abc import Iterator

import numpy as np

from megatron.data import kernels
from megatron.data.document_rows import Spans
from megatron.data.index_cache import ArrayWriter
from megatron.data.indexed_dataset import IndexedDataset
from megatron.data.neox_order import random_state
from megatron.errors import DataError


def usable_documents(
    lengths: np.ndarray,
    first: int,
    seq_length: int,
    allow_chopped: bool,
    labels: IndexedDataset | None,
    label_spans: Spans | None,
) -> np.ndarray:
    """Numbers of the documents that teach something: int64, in file order.

    lengths: tokens of documents first, first + 1, ...  label_spans: where their labels lie (see `DocumentRows`).
    DataError when none is left.
    """
    room = seq_length + 1
    usable = lengths > 0
    if not allow_chopped:
        usable &= lengths <= room
    if labels is not None and label_spans is not None:
        for place in np.flatnonzero(usable):
            start, count = label_spans(np.array([first + place]))
            usable[place] = (labels.tokens(int(start[0]), min(int(count[0]), room)) >= 0).any()
    if not usable.any():
        raise DataError(
            f"none of the {len(lengths)} documents from {first} on can be used: they are empty"
            + ("" if allow_chopped else f", longer than seq_length + 1 = {room} tokens (allow_chopped: false)")
            + ("" if labels is None else ", or have no label in reach")
            + "."
        )
    return first + np.flatnonzero(usable)


def write_packing(writer: ArrayWriter, documents: np.ndarray, lengths: np.ndarray, pack_impl: str, room: int) -> None:
    """Save "documents" and "starts" [samples + 1, 2] of the samples of one epoch, in file order."""
    if pack_impl == "unpacked":
        begins = np.arange(len(documents))
    else:
        begins = kernels.pack(np.minimum(lengths, room).astype(np.int32), room)
    writer.save("documents", documents)
    writer.save("starts", _as_starts([*begins.tolist(), len(documents)]))


def write_neox_packing(
    writer: ArrayWriter,
    usable: np.ndarray,
    all_lengths: np.ndarray,
    documents: tuple[int, int],
    pack_impl: str,
    *,
    seq_length: int,
    seed: int,
    num_samples: int,
) -> None:
    """Save doc_idx, sample_idx and shuffle_idx as GPT-NeoX builds them for these kinds, but of `documents` only.

    usable: see `usable_documents`. The original takes documents from the start of the file, whatever the range.
    """
    generator = random_state(seed)
    shuffle_idx = np.arange(num_samples)
    generator.shuffle(shuffle_idx)
    first, last = documents
    if pack_impl == "unpacked":
        doc_idx = np.resize(usable, num_samples + 1)
        begins = list(range(num_samples + 1))
    else:
        row: list[int] = []
        begins, filled = [], 0
        for document in _shuffled_for_ever(usable, first, last, generator):
            length = int(all_lengths[document])
            if filled == 0 or filled + length > seq_length + 1:
                begins.append(len(row))
                filled = 0
            if len(begins) > num_samples:
                break
            filled += length
            row.append(document)
        doc_idx = np.array(row, np.int64)
    writer.save("doc_idx", doc_idx)
    writer.save("sample_idx", _as_starts(begins))
    writer.save("shuffle_idx", shuffle_idx)


def _shuffled_for_ever(usable: np.ndarray, first: int, last: int, generator: np.random.RandomState) -> Iterator[int]:
    """Usable documents, in the order of a shuffle of the whole range that is shuffled on in place at its end."""
    order = np.arange(last - first)
    is_usable = np.zeros(last - first, bool)
    is_usable[usable - first] = True
    while True:
        generator.shuffle(order)
        yield from (first + order[is_usable[order]]).tolist()


def _as_starts(begins: list[int]) -> np.ndarray:
    return np.stack([np.array(begins, np.int64), np.zeros(len(begins), np.int64)], axis=1)

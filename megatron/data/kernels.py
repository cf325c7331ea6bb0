"""The loops of the index builders: in C++ where the helper is built, else in NumPy with the same results.

`helper()` is the compiled module or None; `NO_HELPER` is the sentence for users who miss it. Every function has its
NumPy twin here, which the tests hold against the helper.
"""

import importlib
from functools import cache
from typing import Any

import numpy as np

NO_HELPER = (
    "The C++ helper of the data loader is not built, so NumPy builds the index: same result, several times slower "
    "for the largest sets. To build it: pip install pybind11 && python setup.py build_ext --inplace"
)
BLOCK = 1 << 20  # documents looked at together by the twins


@cache
def helper() -> Any:
    """The compiled module, or None on a machine where it was not built."""
    try:
        return importlib.import_module("megatron.data.native._kernels")
    except ImportError:
        return None


def shuffle(values: np.ndarray, generator: np.random.RandomState) -> None:
    """`generator.shuffle(values)` for a 1-D array: same order, same state of the generator after it."""
    native = helper()
    known = values.dtype in (np.int32, np.uint32, np.int64) and values.size < 1 << 32
    if native is None or not known or not values.flags.c_contiguous:
        generator.shuffle(values)
        return
    state = generator.get_state(legacy=False)
    twister = state["state"]
    twister["pos"] = native.shuffle(values, twister["key"], twister["pos"])
    generator.set_state(state)


def cut(
    documents: np.ndarray, sizes: np.ndarray, seq_length: int, start: tuple[int, int], rows: np.ndarray
) -> tuple[int, int]:
    """Fill rows [count, 2] with (position in `documents`, offset in that document) of samples, from `start` on.

    documents: sequence numbers in the order they are read. sizes: int32, tokens of every sequence of the set.
    Sample starts lie seq_length tokens apart. Returns the start of the sample after the last, so that a long index
    is made in blocks; ValueError when the documents end too early.
    """
    native = helper()
    if native is None:
        return _cut_twin(documents, sizes, seq_length, start, rows)
    try:
        return native.cut(documents, sizes, seq_length, *start, rows)
    except RuntimeError as error:
        raise ValueError(str(error)) from error


def _cut_twin(
    documents: np.ndarray, sizes: np.ndarray, seq_length: int, start: tuple[int, int], rows: np.ndarray
) -> tuple[int, int]:
    if not len(rows):
        return start
    rows[0] = start
    position, offset = start
    filled, due = 1, offset + seq_length  # due: where the next sample starts, counted from the start of `position`
    while position < len(documents):
        ends = np.cumsum(sizes[documents[position : position + BLOCK]], dtype=np.int64)
        count = min(len(rows) - filled, max(0, int(ends[-1] - 1 - due) // seq_length + 1))
        starts = due + seq_length * np.arange(count + 1)
        places = np.searchsorted(ends, starts, side="right")
        begins = np.where(places > 0, ends[np.maximum(places - 1, 0)], 0)
        rows[filled : filled + count, 0] = position + places[:count]
        rows[filled : filled + count, 1] = (starts - begins)[:count]
        filled += count
        if filled == len(rows) and places[count] < len(ends):
            return position + int(places[count]), int(starts[count] - begins[count])
        due = int(starts[count] - ends[-1])
        position += len(ends)
    if filled < len(rows):
        raise ValueError("the documents end before the samples do")
    return position, due


def blend(weights: np.ndarray, taken: np.ndarray, first: int, chosen: np.ndarray) -> None:
    """Fill `chosen` (uint8 or int16) with the set at steps first, first + 1, ...; `taken` (int64) counts on.

    GPT-NeoX's rule in its own float64 arithmetic: the largest weight * max(step, 1) - taken, ties to the first.
    """
    native = helper()
    if native is not None:
        native.blend(weights, taken, first, chosen)
        return
    shares, counts = weights.tolist(), taken.tolist()
    sets = range(len(shares))
    for step in range(len(chosen)):
        due = float(max(first + step, 1))
        best = max(sets, key=lambda k: shares[k] * due - counts[k])
        chosen[step] = best
        counts[best] += 1
    taken[:] = counts


def pack(lengths: np.ndarray, room: int) -> np.ndarray:
    """Where a new sample starts when documents of these lengths (int32) fill samples of `room` tokens in order.

    int64 [samples]. A document longer than `room` has a sample of its own; one that does not fit begins the next.
    """
    native = helper()
    if native is not None:
        return native.pack(np.ascontiguousarray(lengths, dtype=np.int32), room)
    starts, filled = [], 0
    for number, length in enumerate(lengths.tolist()):
        if filled == 0 or filled + length > room:
            starts.append(number)
            filled = 0
        filled += length
    return np.array(starts, dtype=np.int64)

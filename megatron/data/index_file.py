"""The `.idx` half of an idxmap data set (magic MMIDIDX): layout, reading with every check, writing.

Little-endian, packed, so the arrays are not aligned:  9 bytes magic, u64 version, u8 dtype code, u64 sequences S,
u64 D;  i32 sizes[S] in tokens;  i64 pointers[S] in bytes of the `.bin`;  i64 document_index[D], D = documents + 1.
Document k is the sequences [document_index[k], document_index[k + 1]).  Format of Megatron-LM and GPT-NeoX.
"""

import mmap
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np

from megatron.errors import DataError

MAGIC = b"MMIDIDX\0\0"
OLD_MAGIC = b"TNTIDX\0\0"
HEADER = struct.Struct("<9sQBQQ")
VERSION = 1
DTYPES: dict[int, np.dtype] = {
    code: np.dtype(kind)
    for code, kind in {1: "u1", 2: "i1", 3: "<i2", 4: "<i4", 5: "<i8", 6: "<f4", 7: "<f8", 8: "<u2"}.items()
}
BLOCK = 1 << 20  # entries looked at together, so that checks need no memory of the size of the file


@dataclass(frozen=True)
class Index:
    """A checked `.idx`. Arrays are read-only views of the mapped file.

    sizes: int32 [sequences], tokens.  pointers: int64 [sequences], bytes.
    document_index: int64 [documents + 1], or None where document k is sequence k.
    total_tokens: sum of sizes = tokens in the `.bin`.
    """

    path: Path
    dtype: np.dtype
    sizes: np.ndarray
    pointers: np.ndarray
    document_index: np.ndarray | None
    total_tokens: int


def read_index(path: Path, bin_name: str, bin_bytes: int) -> Index:
    """Map `path` and check it against itself and against the length of its `.bin` (named `bin_name` in messages).

    DataError with expected and actual values: foreign or older format, wrong length, pointers that do not follow
    from the sizes, document borders that run backwards, a `.bin` that is too short or too long.
    """
    with path.open("rb") as file:
        head = file.read(HEADER.size)
        actual_bytes = file.seek(0, 2)
        code, sequences, borders = _read_header(path, head)
        _check_length(path, actual_bytes, sequences, borders)
        mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    sizes = np.frombuffer(mapped, "<i4", sequences, HEADER.size)
    pointers = np.frombuffer(mapped, "<i8", sequences, HEADER.size + 4 * sequences)
    document_index = np.frombuffer(mapped, "<i8", borders, HEADER.size + 12 * sequences)
    # Checking reads all of the file once; its pages need not stay in this process.
    total_tokens = _check_sizes(path, sizes, mapped)
    dtype = _settle_float_width(code, total_tokens, bin_bytes)
    _check_bin_length(path, bin_name, bin_bytes, total_tokens, dtype)
    _check_pointers(path, sizes, pointers, dtype.itemsize, mapped)
    documents_known = _check_documents(path, document_index, sequences, mapped)
    return Index(path, dtype, sizes, pointers, document_index if documents_known else None, total_tokens)


def write_index(file: BinaryIO, dtype: np.dtype, sizes: np.ndarray, document_index: np.ndarray | None) -> None:
    """Write header and arrays; pointers follow from sizes. Whatever is on disk as a memory map is read block by block.

    sizes: int32 [S].  document_index: int64 [documents + 1], or None when every sequence is a document.
    """
    code = next(code for code, known in DTYPES.items() if known == dtype)
    borders = len(sizes) + 1 if document_index is None else len(document_index)
    file.write(HEADER.pack(MAGIC, VERSION, code, len(sizes), borders))
    for start in range(0, len(sizes), BLOCK):
        file.write(sizes[start : start + BLOCK].astype("<i4", copy=False).tobytes())
    for _, expected in _expected_pointers(sizes, dtype.itemsize):
        file.write(expected.astype("<i8", copy=False).tobytes())
    for start in range(0, borders, BLOCK):
        stop = min(start + BLOCK, borders)
        part = np.arange(start, stop) if document_index is None else document_index[start:stop]
        file.write(part.astype("<i8", copy=False).tobytes())


def _read_header(path: Path, head: bytes) -> tuple[int, int, int]:
    """dtype code, number of sequences, length of the document index."""
    if head.startswith(OLD_MAGIC):
        raise DataError(
            f"{path}: this is an older TNTIDX index (the 'lazy' or 'cached' kind), which is not read here. "
            "Tokenise the text again with tools/datasets/preprocess_data.py."
        )
    if len(head) < HEADER.size:
        raise DataError(f"{path}: an index has at least {HEADER.size} bytes, this file has {len(head)}. Copy it again.")
    magic, version, code, sequences, borders = HEADER.unpack(head)
    if magic != MAGIC:
        raise DataError(
            f"{path}: not an idxmap index: it starts with {head[:9]!r}, expected {MAGIC!r}. "
            "Data sets are made by tools/datasets/preprocess_data.py."
        )
    if version != VERSION:
        raise DataError(f"{path}: index version {version}; only version {VERSION} is known.")
    if code not in DTYPES:
        raise DataError(f"{path}: unknown dtype code {code}; known are 1 to 8. The file is damaged or foreign.")
    return code, sequences, borders


def _check_length(path: Path, actual: int, sequences: int, borders: int) -> None:
    expected = HEADER.size + 12 * sequences + 8 * borders
    with_modes = expected + sequences  # Megatron-core's multimodal sets end with one byte per sequence
    if actual not in (expected, with_modes) or borders < 1:
        raise DataError(
            f"{path}: expected {expected} bytes for {sequences} sequences and {borders} document borders, "
            f"found {actual} bytes. The file is cut or damaged: copy or build it again."
        )


def _check_sizes(path: Path, sizes: np.ndarray, mapped: mmap.mmap) -> int:
    """Sum of the sizes; none may be negative."""
    total = 0
    for start in range(0, len(sizes), BLOCK):
        block = sizes[start : start + BLOCK]
        if block.min() < 0:
            where = start + int(np.argmax(block < 0))
            raise DataError(f"{path}: sequence {where} has {sizes[where]} tokens. The index is damaged.")
        total += int(block.sum(dtype=np.int64))
        _let_go(mapped, start)
    return total


def _let_go(mapped: mmap.mmap, start: int) -> None:
    """Now and then, give back the pages read so far: an index of 134 million documents is 2.7 GB."""
    if start // BLOCK % 8 == 7 and hasattr(mmap, "MADV_DONTNEED"):
        mapped.madvise(mmap.MADV_DONTNEED)


def _settle_float_width(code: int, total_tokens: int, bin_bytes: int) -> np.dtype:
    """Codes 6 and 7: GPT-NeoX means float32 and float64, Megatron-core the reverse; the length of the `.bin` tells."""
    if code in (6, 7) and total_tokens:
        for width in (4, 8):
            if bin_bytes == total_tokens * width:
                return np.dtype(f"<f{width}")
    return DTYPES[code]


def _check_bin_length(path: Path, bin_name: str, actual: int, total_tokens: int, dtype: np.dtype) -> None:
    expected = total_tokens * dtype.itemsize
    if actual != expected:
        state = "cut short" if actual < expected else "longer than its index says"
        raise DataError(
            f"{bin_name}: expected {expected} bytes ({total_tokens} tokens of {dtype.name}, by {path.name}), found "
            f"{actual} bytes. The file is {state}, or the two are not of one data set: copy or build them again."
        )


def _expected_pointers(sizes: np.ndarray, itemsize: int) -> Iterator[tuple[int, np.ndarray]]:
    """Blocks of (first sequence, byte offsets): the exclusive running sum of sizes * itemsize."""
    position = 0
    for start in range(0, len(sizes), BLOCK):
        lengths = sizes[start : start + BLOCK].astype(np.int64) * itemsize
        ends = position + np.cumsum(lengths)
        yield start, ends - lengths
        position = int(ends[-1])


def _check_pointers(path: Path, sizes: np.ndarray, pointers: np.ndarray, itemsize: int, mapped: mmap.mmap) -> None:
    for start, expected in _expected_pointers(sizes, itemsize):
        actual = pointers[start : start + len(expected)]
        if not np.array_equal(actual, expected):
            wrong = int(np.argmax(actual != expected))
            raise DataError(
                f"{path}: the pointer of sequence {start + wrong} is byte {actual[wrong]}, expected "
                f"{expected[wrong]} from the sizes before it. The index is damaged: copy or build it again."
            )
        _let_go(mapped, start)


def _check_documents(path: Path, borders: np.ndarray, sequences: int, mapped: mmap.mmap) -> bool:
    """True when the borders are meant; False for the index of an old merge tool, which kept only the leading 0."""
    if len(borders) == 1 and borders[0] == 0 and sequences:
        return False
    problem = None
    if borders[0] != 0 or borders[-1] != sequences:
        problem = f"they run from {borders[0]} to {borders[-1]}, expected 0 to {sequences}"
    for start in range(0, len(borders) - 1, BLOCK):
        steps = np.diff(borders[start : start + BLOCK + 1])
        if problem is None and steps.min() < 0:
            problem = f"document {start + int(np.argmax(steps < 0))} ends before it starts"
        _let_go(mapped, start)
    if problem:
        raise DataError(f"{path}: document borders do not fit: {problem}. The index is damaged: build it again.")
    return True

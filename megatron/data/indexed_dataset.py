"""An idxmap data set on disk: `<prefix>.bin` (nothing but tokens) beside `<prefix>.idx` (where they belong).

The `.bin` may lie there in shards (`megatron/data/token_file.py`), which are read in place.
"""

import bisect
import difflib
import os
from array import array
from collections.abc import Iterable, Sequence
from pathlib import Path
from types import TracebackType

import numpy as np

from megatron.data.fingerprint import content_fingerprint, file_fingerprint
from megatron.data.index_file import DTYPES, Index, read_index, write_index
from megatron.data.token_file import TokenFile, open_tokens, prefix_of_shard
from megatron.errors import DataError


class IndexedDataset:
    """A checked, read-only data set of documents made of sequences made of tokens.

    The index is mapped into memory; tokens are read with `pread`, which neither reads ahead what nobody asked for
    nor kills the process when the file shrinks under it. Cheap to open at any size, safe after fork, picklable.
    DataError at opening when a file is missing, cut, foreign or does not fit the other.
    """

    def __init__(self, prefix: str | Path) -> None:
        self.prefix = Path(prefix)
        self.index_path = Path(f"{prefix}.idx")
        tokens = open_tokens(self.prefix)
        if tokens is None or not self.index_path.is_file():
            raise _missing(self.prefix, tokens is not None, self.index_path)
        self.token_file: TokenFile = tokens
        try:
            self._index: Index = read_index(self.index_path, tokens.name, tokens.num_bytes)
        except OSError as error:
            raise DataError(f"{self.prefix}: cannot read the data set: {error}.") from error

    def __reduce__(self) -> tuple[type["IndexedDataset"], tuple[Path]]:
        return IndexedDataset, (self.prefix,)

    @property
    def dtype(self) -> np.dtype:
        return self._index.dtype

    @property
    def sizes(self) -> np.ndarray:
        """Tokens per sequence, int32 [sequences]."""
        return self._index.sizes

    @property
    def num_sequences(self) -> int:
        return len(self._index.sizes)

    @property
    def num_documents(self) -> int:
        borders = self._index.document_index
        return self.num_sequences if borders is None else len(borders) - 1

    @property
    def num_tokens(self) -> int:
        return self._index.total_tokens

    @property
    def document_borders(self) -> np.ndarray:
        """First sequence of each document, and the number of sequences at the end: int64 [documents + 1]."""
        borders = self._index.document_index
        return np.arange(self.num_sequences + 1) if borders is None else borders

    def document_starts(self, first: int, last: int) -> np.ndarray:
        """Tokens before each of the documents first..last-1: int64 [last - first]; `first_token` of many at once."""
        borders = self._index.document_index
        sequences = np.arange(first, last) if borders is None else borders[first:last]
        inside = sequences < self.num_sequences
        starts = np.full(len(sequences), self.num_tokens, dtype=np.int64)
        starts[inside] = self._index.pointers[sequences[inside]] // self.dtype.itemsize
        return starts

    def document_at(self, token: int) -> int:
        """The document that token `token` of the `.bin` belongs to."""
        return bisect.bisect_right(range(self.num_documents + 1), token, key=self.first_token) - 1

    def first_sequence(self, document: int) -> int:
        """Number of the first sequence of `document`; for the document after the last: the number of sequences."""
        borders = self._index.document_index
        return document if borders is None else int(borders[document])

    def first_token(self, document: int) -> int:
        """Tokens before `document` in the `.bin`; documents are 0..num_documents, the end included."""
        sequence = self.first_sequence(document)
        if sequence == self.num_sequences:
            return self.num_tokens
        return int(self._index.pointers[sequence]) // self.dtype.itemsize

    def sequence_spans(self, numbers: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """First token and number of tokens of these sequences: two int64 arrays."""
        starts = self._index.pointers[numbers] // self.dtype.itemsize
        return starts, self.sizes[numbers].astype(np.int64)

    def document_spans(self, numbers: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """First token and number of tokens of these documents: two int64 arrays."""
        borders = self._index.document_index
        if borders is None:
            return self.sequence_spans(numbers)
        starts, ends = (self._token_starts(borders[np.asarray(numbers) + step]) for step in (0, 1))
        return starts, ends - starts

    def _token_starts(self, sequences: np.ndarray) -> np.ndarray:
        """First token of these sequences; of the one after the last, the number of tokens."""
        inside = sequences < self.num_sequences
        starts = np.full(sequences.shape, self.num_tokens, np.int64)
        starts[inside] = self._index.pointers[sequences[inside]] // self.dtype.itemsize
        return starts

    def sequence(self, number: int) -> np.ndarray:
        """Tokens of one sequence, in the data set's own dtype."""
        if not 0 <= number < self.num_sequences:
            raise IndexError(f"sequence {number} of {self.num_sequences} in {self.prefix}")
        return self.tokens(int(self._index.pointers[number]) // self.dtype.itemsize, int(self.sizes[number]))

    def document(self, number: int) -> np.ndarray:
        """Tokens of one document, its sequences joined, in the data set's own dtype."""
        if not 0 <= number < self.num_documents:
            raise IndexError(f"document {number} of {self.num_documents} in {self.prefix}")
        start = self.first_token(number)
        return self.tokens(start, self.first_token(number + 1) - start)

    def tokens(self, start: int, count: int) -> np.ndarray:
        """`count` tokens from token `start` of the `.bin`, whatever sequences they belong to: [count], own dtype."""
        if start < 0 or count < 0 or start + count > self.num_tokens:
            raise IndexError(f"tokens [{start}, {start + count}) of {self.num_tokens} in {self.prefix}")
        itemsize = self.dtype.itemsize
        return np.frombuffer(self.token_file.read(count * itemsize, start * itemsize), self.dtype)

    def place_of_token(self, token: int) -> str:
        """Token `token` of the `.bin` in words: the file (shard) it lies in, and the byte."""
        return self.token_file.place(token * self.dtype.itemsize)

    def fingerprints(self) -> dict[str, str]:
        """Hashes of tokens and index, see `megatron.data.fingerprint`; the same for shards and the joined file."""
        tokens = self.token_file
        return {"bin": content_fingerprint(tokens.num_bytes, tokens.read), "idx": file_fingerprint(self.index_path)}

    def warm_up(self) -> None:
        """Read the whole `.bin` once, so that the system keeps what it can of it in memory."""
        block = memoryview(bytearray(1 << 24))
        total = self.token_file.num_bytes
        for offset in range(0, total, len(block)):
            self.token_file.read_into(block[: total - offset], offset)


def token_dtype(vocab_size: int) -> np.dtype:
    """The type ids are stored in: uint16 below 65500 ids, else int32 (the rule of GPT-NeoX and Megatron-LM)."""
    return np.dtype("<u2") if vocab_size < 65500 else np.dtype("<i4")


class IndexedDatasetWriter:
    """Write a data set, document by document, in memory of 12 bytes a document.

    Works under temporary names beside `prefix` and takes the real ones when closed, so that a killed run leaves no
    half a data set. As a context manager it removes its files when the block raises. Give `vocab_size`
    (`token_dtype` chooses) or `dtype`. DataError: an id the type cannot hold, a folder that cannot be written.
    """

    def __init__(
        self, prefix: str | Path, *, vocab_size: int | None = None, dtype: np.dtype | str | None = None
    ) -> None:
        if (vocab_size is None) == (dtype is None):
            raise TypeError("give either vocab_size or dtype")
        self.dtype = token_dtype(vocab_size) if vocab_size is not None else np.dtype(dtype)
        if self.dtype not in DTYPES.values():
            raise TypeError(f"{self.dtype} is none of {', '.join(kind.name for kind in DTYPES.values())}")
        self.prefix = Path(prefix)
        self._bin_path, self._index_path = (Path(f"{prefix}.{end}") for end in ("bin", "idx"))
        self._bin_draft, self._index_draft = (Path(f"{prefix}.{end}.{os.getpid()}.tmp") for end in ("bin", "idx"))
        self._sizes = array("i")
        self._document_index = array("q", [0])
        try:
            self.prefix.parent.mkdir(parents=True, exist_ok=True)
            self._file = self._bin_draft.open("wb")
        except OSError as error:
            raise DataError(f"{self.prefix}: cannot write there: {error}.") from error

    def add_document(self, ids: Sequence[int] | np.ndarray) -> None:
        """A document of one sequence; no tokens at all is legal."""
        self.add_sequences([ids])

    def add_sequences(self, sequences: Iterable[Sequence[int] | np.ndarray]) -> None:
        """A document of several sequences, or of none."""
        for ids in sequences:
            self._write(np.asarray(ids))
            self._sizes.append(len(ids))
        self._document_index.append(len(self._sizes))

    def add_documents(self, ids: np.ndarray, sizes: np.ndarray) -> None:
        """Many documents of one sequence each: all their ids joined, and how many belong to each."""
        if int(sizes.sum()) != len(ids):
            raise ValueError(f"sizes add up to {int(sizes.sum())}, but there are {len(ids)} ids")
        self._write(ids)
        first = len(self._sizes)
        self._sizes.frombytes(sizes.astype("i").tobytes())
        self._document_index.extend(range(first + 1, len(self._sizes) + 1))

    def close(self) -> None:
        """Write the index and give both files their names."""
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        with self._index_draft.open("wb") as file:
            write_index(file, self.dtype, np.frombuffer(self._sizes, "i"), np.frombuffer(self._document_index, "q"))
            file.flush()
            os.fsync(file.fileno())
        # Without its index a data set is missing, never wrong: the old index goes first, the new one comes last.
        self._index_path.unlink(missing_ok=True)
        self._bin_draft.replace(self._bin_path)
        self._index_draft.replace(self._index_path)

    def abort(self) -> None:
        """Remove what was written; an older data set of this name stays as it was."""
        self._file.close()
        self._bin_draft.unlink(missing_ok=True)
        self._index_draft.unlink(missing_ok=True)

    def __enter__(self) -> "IndexedDatasetWriter":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.close()
        else:
            self.abort()

    def _write(self, ids: np.ndarray) -> None:
        if len(ids) == 0:
            return
        if self.dtype.kind in "iu":
            bounds = np.iinfo(self.dtype.name)
            wrong = (ids < bounds.min) | (ids > bounds.max)
            if wrong.any():
                raise DataError(
                    f"{self.prefix}: id {ids[np.argmax(wrong)]} of sequence {len(self._sizes)} does not fit "
                    f"{self.dtype.name} ({bounds.min} to {bounds.max}). Is the vocabulary the right one?"
                )
        self._file.write(ids.astype(self.dtype, copy=False).tobytes())


def _missing(prefix: Path, tokens_found: bool, index_path: Path) -> DataError:
    absent = [] if tokens_found else [f"{prefix}.bin"]
    absent += [] if index_path.is_file() else [str(index_path)]
    message = f"No data set at {prefix}: {' and '.join(absent)} not found."
    folder = prefix.parent
    if not folder.is_dir():
        return DataError(f"{message} The folder {folder} does not exist either.")
    if prefix.suffix in (".bin", ".idx") and prefix.is_file():
        plain = prefix_of_shard(prefix) or prefix.with_suffix("")
        return DataError(f"{message} Give the prefix without its ending: {plain}")
    known = sorted(path.stem for path in folder.glob("*.idx"))
    near = difflib.get_close_matches(prefix.name, known, n=3, cutoff=0.5) or known[:3]
    if near:
        return DataError(f"{message} In that folder: {', '.join(near)}. Did you mean {folder / near[0]}?")
    return DataError(f"{message} Data sets are made by tools/datasets/preprocess_data.py --output-prefix.")

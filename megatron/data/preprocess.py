"""Text files to idxmap data sets: reads, tokenises in worker processes, writes in the order of the input.

Memory is constant: a few chunks are under way, whatever the size of the input.
"""

import multiprocessing
import signal
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import TextIO

from megatron.data.encode_documents import Encoded, Encoder, EncodeSettings
from megatron.data.indexed_dataset import IndexedDatasetWriter
from megatron.data.text_files import RawDocument, TextFiles
from megatron.errors import DataError, PeerError

CHUNK_BYTES, CHUNK_DOCUMENTS = 1 << 17, 256
LISTED_REJECTS = 10_000


@dataclass
class Progress:
    """Counts so far. Bytes are those of the input files on disk, tokens those of the first key."""

    total_bytes: int
    read_bytes: int = 0
    documents: int = 0
    tokens: int = 0
    text_bytes: int = 0
    rejected: int = 0
    first_reject: str = ""
    prefixes: list[Path] = field(default_factory=list)
    rejects_path: Path | None = None
    seconds: float = 0.0


def preprocess(
    files: Sequence[Path],
    output_prefix: str,
    settings: EncodeSettings,
    workers: int,
    report: Callable[[Progress], None] = lambda progress: None,
) -> Progress:
    """Write `<output_prefix>_<key>_document.{bin,idx}` for every key; the same bytes for any number of workers.

    Documents that cannot be used are counted and listed with their place and the reason in
    `<output_prefix>_rejects.txt`. DataError when not a single one could be used; then nothing is written.
    """
    start = time.monotonic()
    source = TextFiles(files)
    encoder = Encoder(settings)  # before any worker starts, so that its mistakes are told once
    progress = Progress(source.total_bytes)
    progress.prefixes = [Path(f"{output_prefix}_{key}_document") for key in settings.keys]
    with ExitStack() as stack:
        writers = [
            stack.enter_context(IndexedDatasetWriter(prefix, dtype=encoder.dtype)) for prefix in progress.prefixes
        ]
        rejects = stack.enter_context(_RejectsFile(Path(f"{output_prefix}_rejects.txt")))
        for encoded in _encode_all(encoder, _chunks(source), workers):
            for writer, ids, sizes in zip(writers, encoded.ids, encoded.sizes, strict=True):
                writer.add_documents(ids, sizes)
            rejects.add(encoded.rejects)
            progress.read_bytes = source.bytes_read
            progress.documents += encoded.num_documents
            progress.tokens += len(encoded.ids[0])
            progress.text_bytes += encoded.text_bytes
            progress.rejected, progress.first_reject = rejects.count, rejects.first
            progress.seconds = time.monotonic() - start
            report(progress)
        if progress.documents == 0:
            raise _nothing_usable(files, progress)
    progress.rejects_path = rejects.path if rejects.count else None
    progress.seconds = time.monotonic() - start
    return progress


def _chunks(documents: Iterable[RawDocument]) -> Iterator[list[RawDocument]]:
    chunk: list[RawDocument] = []
    size = 0
    for document in documents:
        chunk.append(document)
        size += len(document.data)
        if size >= CHUNK_BYTES or len(chunk) >= CHUNK_DOCUMENTS:
            yield chunk
            chunk, size = [], 0
    if chunk:
        yield chunk


def _encode_all(encoder: Encoder, chunks: Iterator[list[RawDocument]], workers: int) -> Iterator[Encoded]:
    """Encode in `workers` processes, at most two chunks waiting for each, results in order."""
    if workers <= 1:
        yield from map(encoder.encode, chunks)
        return
    # Forked workers inherit the loaded tokenizer and start at once; where there is no fork they load their own.
    global _worker_encoder
    _worker_encoder = encoder
    method = "fork" if "fork" in multiprocessing.get_all_start_methods() else "spawn"
    waiting: deque[Future[Encoded]] = deque()
    pool = ProcessPoolExecutor(
        workers, multiprocessing.get_context(method), initializer=_start_worker, initargs=(encoder.settings,)
    )
    try:
        for chunk in chunks:
            waiting.append(pool.submit(_encode_in_worker, chunk))
            if len(waiting) > 2 * workers:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    except BrokenProcessPool as error:
        raise PeerError("A worker process died, most likely for want of memory. Try fewer --workers.") from error
    finally:
        pool.shutdown(cancel_futures=True)
        _worker_encoder = None


_worker_encoder: Encoder | None = None


def _start_worker(settings: EncodeSettings) -> None:
    global _worker_encoder
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, which ends the workers
    if _worker_encoder is None:
        _worker_encoder = Encoder(settings)


def _encode_in_worker(chunk: list[RawDocument]) -> Encoded:
    assert _worker_encoder is not None
    return _worker_encoder.encode(chunk)


class _RejectsFile:
    """`file:line: reason`, the first ten thousand; there is no file when there is nothing to list."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.count = 0
        self.first = ""
        self._file: TextIO | None = None

    def __enter__(self) -> "_RejectsFile":
        self.path.unlink(missing_ok=True)
        return self

    def add(self, rejects: list[tuple[str, int, str]]) -> None:
        for path, line, reason in rejects:
            self.count += 1
            if self._file is None:
                self.first = f"{path}:{line}: {reason}"
                self._file = self.path.open("w", encoding="utf-8", errors="backslashreplace")
            if self.count <= LISTED_REJECTS:
                self._file.write(f"{path}:{line}: {reason}\n")

    def __exit__(self, *exc: object) -> None:
        if self._file is not None:
            if self.count > LISTED_REJECTS:
                self._file.write(f"and {self.count - LISTED_REJECTS} more\n")
            self._file.close()


def _nothing_usable(files: Sequence[Path], progress: Progress) -> DataError:
    names = ", ".join(str(path) for path in files[:3]) + (", ..." if len(files) > 3 else "")
    if not progress.rejected:
        return DataError(f"No documents in {names}: nothing but blank lines. Nothing was written.")
    advice = " Name the key of the text with --jsonl-keys." if ": no key " in progress.first_reject else ""
    return DataError(
        f"No usable document in {names}: {progress.rejected} left out, the first being {progress.first_reject}."
        f"{advice} No data set was written."
    )

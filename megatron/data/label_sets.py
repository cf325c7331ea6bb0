"""Write several idxmap data sets at once from the same documents: ids, labels, rewards, document by document."""

import multiprocessing
import signal
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from megatron.data.indexed_dataset import IndexedDatasetWriter
from megatron.data.rejects_file import RejectsFile
from megatron.data.text_files import Block, RawDocument, TextFiles
from megatron.data.text_records import UnusableDocument
from megatron.errors import DataError, PeerError

Encode = Callable[[RawDocument], Sequence[Sequence[float]] | None]
Row = Sequence[Sequence[float]]


@dataclass
class LabelSets:
    """What was written. tokens: of the first set; counted: of its tokens, those that have a label."""

    documents: int = 0
    tokens: int = 0
    counted: int = 0
    rejected: int = 0
    first_reject: str = ""
    prefixes: list[Path] = field(default_factory=list)


def write_label_sets(
    files: Sequence[Path],
    columns: Sequence[str],
    outputs: dict[Path, str],
    encode: Encode,
    rejects_path: Path,
    *,
    workers: int = 1,
    progress: Callable[[int], None] = lambda count: None,
) -> LabelSets:
    """`encode` each document of `files` and append what it returns to the data sets `outputs` (prefix -> dtype).

    The order is that of the input for any number of workers. Documents that cannot be used are listed in
    `rejects_path`. DataError when none can be used; then nothing is written.
    """
    source = TextFiles(files, columns)
    result = LabelSets(prefixes=list(outputs))
    read_bytes = 0
    with ExitStack() as stack:
        writers = [stack.enter_context(IndexedDatasetWriter(prefix, dtype=kind)) for prefix, kind in outputs.items()]
        rejects = RejectsFile(rejects_path)
        stack.callback(rejects.close)
        for block, rows, reasons in _encode_all(encode, source.blocks(), workers):
            for row in rows:
                for writer, values in zip(writers, row, strict=True):
                    writer.add_document(np.asarray(values))
                result.documents += 1
                result.tokens += len(row[0])
                result.counted += sum(value >= 0 for value in row[1]) if len(row) > 1 else len(row[0])
            rejects.add(reasons)
            progress(block.read_bytes - read_bytes)
            read_bytes = block.read_bytes
        result.rejected, result.first_reject = rejects.count, rejects.first
        if result.documents == 0:
            names = ", ".join(map(str, files[:3]))
            why = f"{rejects.count} left out, the first: {rejects.first}" if rejects.count else "only blank lines"
            raise DataError(f"No usable document in {names}: {why}. No data set was written.")
    return result


Encoded = tuple[Block, list[Row], list[str]]


def _encode_block(encode: Encode, block: Block) -> Encoded:
    rows: list[Row] = []
    reasons: list[str] = []
    for document in block.documents():
        try:
            row = encode(document)
        except UnusableDocument as reason:
            reasons.append(f"{document.place(reason.offset)}: {reason}")
        else:
            if row is not None:
                rows.append(row)
    return block, rows, reasons


def _encode_all(encode: Encode, blocks: Iterator[Block], workers: int) -> Iterator[Encoded]:
    if workers <= 1 or "fork" not in multiprocessing.get_all_start_methods():
        yield from (_encode_block(encode, block) for block in blocks)
        return
    global _worker_encode
    _worker_encode = encode  # forked workers inherit it
    waiting: deque[Future[Encoded]] = deque()
    pool = ProcessPoolExecutor(workers, multiprocessing.get_context("fork"), initializer=_start_worker)
    try:
        for block in blocks:
            waiting.append(pool.submit(_encode_in_worker, block))
            if len(waiting) > 2 * workers:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    except BrokenProcessPool as error:
        raise PeerError("A worker process died, most likely for want of memory. Try fewer --workers.") from error
    finally:
        pool.shutdown(cancel_futures=True)
        _worker_encode = None


_worker_encode: Encode | None = None


def _start_worker() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, which ends the workers


def _encode_in_worker(block: Block) -> Encoded:
    assert _worker_encode is not None
    return _encode_block(_worker_encode, block)

"""Encoding in worker processes: results in the order of the tasks, few under way, a dead worker noticed at once."""

import multiprocessing
import os
import signal
import threading
import time
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool

from megatron.data.encode_documents import Encoded, Encoder, EncodeSettings
from megatron.data.text_files import Block
from megatron.errors import PeerError

Task = list[Block]


def encode_all(encoder: Encoder, tasks: Iterator[Task], workers: int) -> Iterator[tuple[Task, Encoded]]:
    """Each task with its result; at most three tasks waiting for each worker. PeerError when a worker dies."""
    if workers <= 1:
        for task in tasks:
            yield task, encoder.encode_blocks(task)
        return
    # Forked workers inherit the loaded tokenizer and start at once; where there is no fork they load their own.
    global _worker_encoder
    _worker_encoder = encoder
    method = "fork" if "fork" in multiprocessing.get_all_start_methods() else "spawn"
    waiting: deque[tuple[Task, Future[Encoded]]] = deque()
    pool = ProcessPoolExecutor(
        workers, multiprocessing.get_context(method), initializer=_start_worker, initargs=(encoder.settings,)
    )
    try:
        for task in tasks:
            waiting.append((task, pool.submit(_encode_in_worker, task)))
            if len(waiting) > 3 * workers:
                first, future = waiting.popleft()
                yield first, future.result()
        while waiting:
            first, future = waiting.popleft()
            yield first, future.result()
    except BrokenProcessPool as error:
        raise PeerError(
            "A worker process died, most likely for want of memory. What is done is kept: the same command goes on "
            "from there. Try fewer --workers."
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)
        _worker_encoder = None


_worker_encoder: Encoder | None = None


def _start_worker(settings: EncodeSettings) -> None:
    global _worker_encoder
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, which ends the workers
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    threading.Thread(target=_end_with_parent, args=(os.getppid(),), daemon=True).start()
    if _worker_encoder is None:
        _worker_encoder = Encoder(settings)


def _end_with_parent(parent: int) -> None:
    """A worker whose parent was killed would wait for tasks for ever, and keep the lock on the output with it."""
    while os.getppid() == parent:
        time.sleep(0.5)
    os._exit(1)


def _encode_in_worker(task: Task) -> Encoded:
    assert _worker_encoder is not None
    return _worker_encoder.encode_blocks(task)

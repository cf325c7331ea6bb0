"""Processes that read micro-batches ahead of training, and what happens when one of them dies.

Each runs `megatron/data/reading_process.py` (no torch, a third of a second to start) and writes to a pipe, which holds
it back once a batch or two are waiting. Worker w of n reads every n-th micro-batch, so the order is that of no workers.
"""

import contextlib
import fcntl
import io
import logging
import mmap
import os
import pickle
import select
import signal
import subprocess
import sys
from collections.abc import Iterator
from typing import Any, NoReturn

import numpy as np

from megatron.data.schedule import Read, Schedule, Source
from megatron.errors import DataError

PATIENCE = 30.0  # seconds of silence after which the log says whom training waits for
PIPE_BYTES = 1 << 20


def read_ahead(source: Source, schedule: Schedule, workers: int) -> Iterator[Read]:
    """The micro-batches of `schedule`, read by `workers` processes, which end with this generator.

    Raises what a worker raised, and DataError within a second when one is killed.
    """
    readers: list[_Reader] = []
    try:
        readers.extend(_Reader(source, schedule, number, workers) for number in range(workers))
        while True:
            for reader in readers:
                yield reader.next()
    finally:
        for reader in readers:
            reader.close()


class _Reader:
    def __init__(self, source: Source, schedule: Schedule, number: int, workers: int) -> None:
        self.number = number
        # A session of its own: signals to the training processes are theirs to answer, the workers just end after them.
        self.process = subprocess.Popen(
            [sys.executable, "-m", "megatron.data.reading_process"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
        )
        assert self.process.stdin is not None and self.process.stdout is not None
        self.pipe = self.process.stdout.fileno()
        with contextlib.suppress(OSError, AttributeError):
            fcntl.fcntl(self.pipe, fcntl.F_SETPIPE_SZ, PIPE_BYTES)
        try:
            self.process.stdin.write(pickled((source, schedule, number, workers)))
            self.process.stdin.close()
        except BrokenPipeError:
            self._lost()

    def next(self) -> Read:
        kind, batch, width = np.frombuffer(self._receive(24), np.int64).tolist()
        if kind == ERROR:
            raise pickle.loads(self._receive(batch))
        ids = np.frombuffer(self._receive(16 * batch), np.int64).reshape(2, batch)
        text = np.frombuffer(self._receive(8 * batch * width), np.int64).reshape(batch, width)
        labels = text
        if kind == WITH_LABELS:
            labels = np.frombuffer(self._receive(8 * batch * width), np.int64).reshape(batch, width)
        return Read(ids[0], ids[1], text, labels)

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        for end in (self.process.stdin, self.process.stdout):
            with contextlib.suppress(OSError):
                if end is not None:
                    end.close()

    def _receive(self, wanted: int) -> bytearray:
        buffer = bytearray(wanted)
        view, done = memoryview(buffer), 0
        while done < wanted:
            if not select.select([self.pipe], [], [], PATIENCE)[0]:
                logging.getLogger(__name__).warning(
                    "Waiting for data: worker %d (process %d) has sent nothing for %.0f s. Is the storage slow, or the "
                    "process stopped?",
                    self.number,
                    self.process.pid,
                    PATIENCE,
                )
                continue
            count = os.readv(self.pipe, [view[done:]])
            if count == 0:
                self._lost()
            done += count
        return buffer

    def _lost(self) -> NoReturn:
        code = self.process.wait()
        how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
        raise DataError(
            f"data worker {self.number} (process {self.process.pid}) {how}. Where memory ran out, set num_workers: 0, "
            "which reads inside the training process."
        )


PLAIN, WITH_LABELS, ERROR = range(3)


def pickled(value: Any) -> bytes:
    """`value` as bytes; arrays mapped from a file go as the file's name."""
    buffer = io.BytesIO()
    _Pickler(buffer, pickle.HIGHEST_PROTOCOL).dump(value)
    return buffer.getvalue()


class _Pickler(pickle.Pickler):
    def reducer_override(self, value: Any) -> Any:
        if isinstance(value, np.memmap) and isinstance(value.base, mmap.mmap) and value.filename is not None:
            return np.load, (str(value.filename), "r")
        return NotImplemented

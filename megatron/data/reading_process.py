"""The process behind `megatron/data/readers.py`: takes (source, schedule, first, stride) on stdin, writes batches.

A batch is three int64 (kind, rows, columns), parts and samples, text, and labels where they differ from it; an error
is (ERROR, bytes, 0) and the pickled exception.
"""

import os
import pickle
import signal
import sys

import numpy as np

from megatron.data.readers import ERROR, PLAIN, WITH_LABELS
from megatron.data.schedule import read_batches


def main() -> None:
    """Write until the reader of the pipe is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    out = os.dup(1)
    os.dup2(2, 1)  # whatever prints must not end up among the batches
    try:
        source, schedule, first, stride = pickle.loads(sys.stdin.buffer.read())
        for read in read_batches(source, schedule, first, stride):
            plain = read.labels is read.text
            header = np.array([PLAIN if plain else WITH_LABELS, *read.text.shape], np.int64)
            for array in (header, read.parts, read.samples, read.text, *(() if plain else (read.labels,))):
                _write(out, np.ascontiguousarray(array).data.cast("B"))
    except BrokenPipeError:
        pass
    except Exception as error:
        message = pickle.dumps(error)
        _write(out, np.array([ERROR, len(message), 0], np.int64).data.cast("B"))
        _write(out, memoryview(message))


def _write(out: int, data: memoryview) -> None:
    done = 0
    while done < len(data):
        done += os.write(out, data[done:])


if __name__ == "__main__":
    main()

"""Output that outlives its reader: a run does not end because `tee`, a pager or a terminal went away."""

import contextlib
import errno
import io
import os
import sys
from typing import Any

_GONE = (errno.EPIPE, errno.EIO)  # of a pipe, of a terminal


class _LastingFile(io.FileIO):
    """Standard output or error by its number. Once nobody reads it, what is written is dropped."""

    def write(self, data: Any, /) -> int:
        try:
            return super().write(data)
        except OSError as error:
            if error.errno not in _GONE:
                raise
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self.fileno())
            os.close(nowhere)
            return len(data)


def outlive_readers() -> None:
    """From now on this process writes its output and errors for as long as somebody reads them, line by line."""
    for name, number in (("stdout", 1), ("stderr", 2)):
        stream = getattr(sys, name)
        with contextlib.suppress(AttributeError, OSError, ValueError):  # replaced by a test, or closed
            if stream.fileno() != number:
                continue
            stream.flush()
            raw = io.BufferedWriter(_LastingFile(number, "w", closefd=False))
            lasting = io.TextIOWrapper(raw, stream.encoding, stream.errors, line_buffering=True)
            setattr(sys, name, lasting)

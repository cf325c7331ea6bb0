"""What the ranks of a host print: read line by line, handed on, and kept in a file per rank where one is wanted."""

import contextlib
import os
import selectors
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import BinaryIO

from megatron.errors import SettingsError
from megatron.launcher.display_lines import without_event_lines

# (place among the ranks of this host, 1 for its output or 2 for its errors, the text, which may hold several lines)
Tell = Callable[[int, int, str], None]
_CHUNK = 65536


class RankOutput:
    """A pipe for each rank's output and errors, and the thread that empties them."""

    def __init__(self, files: Sequence[Path] = ()) -> None:
        """files: one per rank, or none. SettingsError when one cannot be written."""
        self._files = [open_log(path) for path in files]
        self._selector = selectors.DefaultSelector()
        self._ended: list[threading.Event] = []
        self._thread: threading.Thread | None = None

    def pipes(self, ranks: int) -> list[tuple[int, int]]:
        """The ends to write to, for each rank; whoever starts the rank closes them."""
        pairs = []
        for rank in range(ranks):
            out, err = self._pipe(rank, 1), self._pipe(rank, 2)
            pairs.append((out, err))
            self._ended.append(threading.Event())
        return pairs

    def start(self, tell: Tell) -> None:
        """Read from now on. Not before the ranks are forked: a fork and threads do not go together."""
        self._thread = threading.Thread(target=self._read, args=(tell,), daemon=True)
        self._thread.start()

    def drain(self, rank: int, seconds: float = 0.5) -> None:
        """Wait until all that an ended rank has printed was handed on; a helper process may hold its pipe open."""
        self._ended[rank].wait(seconds)

    def close(self, seconds: float = 5.0) -> None:
        if self._thread is not None:
            self._thread.join(seconds)

    def note(self, text: str) -> None:
        """A line of our own into every file."""
        for rank in range(len(self._files)):
            self._keep(rank, f"{text}\n".encode())

    def _pipe(self, rank: int, number: int) -> int:
        reading, writing = os.pipe()
        self._selector.register(reading, selectors.EVENT_READ, _Stream(rank, number))
        return writing

    def _read(self, tell: Tell) -> None:
        open_streams = dict.fromkeys(range(len(self._ended)), 2)
        while any(open_streams.values()):
            for key, _ in self._selector.select():
                stream: _Stream = key.data
                data = os.read(key.fd, _CHUNK)
                lines = stream.feed(data)
                if lines:
                    self._keep(stream.rank, lines)
                    tell(stream.rank, stream.number, lines.decode("utf-8", "replace"))
                if not data:
                    self._selector.unregister(key.fd)
                    os.close(key.fd)
                    open_streams[stream.rank] -= 1
                    if not open_streams[stream.rank]:
                        self._ended[stream.rank].set()

    def _keep(self, rank: int, lines: bytes) -> None:
        if self._files:
            with contextlib.suppress(OSError):  # a disk that is full by now must not end the run from here
                self._files[rank].write(without_event_lines(lines))


class _Stream:
    """One pipe: whole lines leave it at once; the rest waits, up to a limit."""

    def __init__(self, rank: int, number: int) -> None:
        self.rank, self.number = rank, number
        self._rest = b""

    def feed(self, data: bytes) -> bytes:
        """b"" stands for the end."""
        self._rest += data
        end = self._rest.rfind(b"\n") + 1
        if not data or (not end and len(self._rest) > _CHUNK):
            end = len(self._rest)
        lines, self._rest = self._rest[:end], self._rest[end:]
        return lines + b"\n" if lines and not lines.endswith(b"\n") else lines


def open_log(path: Path) -> BinaryIO:
    """To append to, unbuffered; its folder is made. SettingsError when that cannot be."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        return path.open("ab", buffering=0)
    except OSError as error:
        raise SettingsError(f"cannot write {path}: {error.strerror}; choose another log_dir or save folder.") from None

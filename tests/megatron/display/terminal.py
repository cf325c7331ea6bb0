"""A real pseudo-terminal around a command, and what a person would see on it."""

import fcntl
import os
import pty
import select
import struct
import subprocess
import termios
import time
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
_LIMIT = 180.0


class Terminal:
    """Starts the command with the terminal as its input, output and errors; gathers all that it writes."""

    def __init__(self, command: Sequence[str], columns: int = 100, rows: int = 30, **environment: str) -> None:
        self._master, slave = pty.openpty()
        self.resize(columns, rows)
        inherited = {key: value for key, value in os.environ.items() if key not in ("NO_COLOR", "COLUMNS", "LINES")}
        variables = {"TERM": "xterm-256color", "LANG": "C.UTF-8", "OMP_NUM_THREADS": "1", "DS_ACCELERATOR": "cpu"}
        self.process = subprocess.Popen(
            list(command),
            cwd=ROOT,
            stdin=slave,
            stdout=slave,
            stderr=slave,
            env={**inherited, **variables, "PYTHONPATH": str(ROOT), **environment},
            start_new_session=True,
        )
        self.modes = termios.tcgetattr(slave)
        self._slave = slave
        self.written = b""

    def resize(self, columns: int, rows: int) -> None:
        fcntl.ioctl(self._master, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def read_until(self, text: str) -> None:
        """AssertionError when the command ends or two minutes pass first."""
        deadline = time.monotonic() + _LIMIT
        while text.encode() not in self.written:
            assert time.monotonic() < deadline and self._read(), self.text()

    def end(self) -> int:
        """Read to the end; the exit code."""
        deadline = time.monotonic() + _LIMIT
        while self.process.poll() is None:
            self._read()
            if time.monotonic() > deadline:
                self.process.kill()
                self.process.wait()
                raise AssertionError(f"still running\n{self.text()}")
        while self._read():
            pass
        self.modes_after = termios.tcgetattr(self._slave)
        os.close(self._slave)
        os.close(self._master)
        return self.process.returncode

    def text(self) -> str:
        return self.written.decode("utf-8", "replace")

    def _read(self) -> bool:
        """Whether something came, or still may."""
        ready, _, _ = select.select([self._master], [], [], 0.2)
        if ready:
            self.written += os.read(self._master, 65536)
        return bool(ready) or self.process.poll() is None

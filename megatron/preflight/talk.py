"""A conversation with the probe on one host: a question out, an answer back, never a wait without end."""

import contextlib
import json
import os
import queue
import signal
import subprocess
import threading
import time
from collections.abc import Sequence
from typing import Any

from megatron.errors import PeerError, UserError
from megatron.preflight.probe import MARK

_LAST_WORDS = 4  # lines of standard error that explain an end


class Refusal(UserError):
    """The host answered that something is wrong there; carries the exit code of its kind."""

    def __init__(self, message: str, code: int) -> None:
        super().__init__(message)
        self.exit_code = code


class Talk:
    """The probe of one host, started at once by `command`."""

    def __init__(self, host: str, command: Sequence[str]) -> None:
        self.host = host
        self._process = subprocess.Popen(
            list(command),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
        self._answers: queue.Queue[dict[str, Any] | None] = queue.Queue()
        self._stderr: list[str] = []
        self._readers = [
            threading.Thread(target=self._read_answers, daemon=True),
            threading.Thread(target=self._read_stderr, daemon=True),
        ]
        for reader in self._readers:
            reader.start()

    def ask(self, name: str, seconds: float, **fields: Any) -> Any:
        """The answer of the function `name` there.

        Refusal: it says that something is wrong. PeerError: none within `seconds`, or the connection ended.
        """
        line = json.dumps({"ask": name, **fields}) + "\n"
        assert self._process.stdin is not None
        with contextlib.suppress(OSError):  # it has ended: its last words follow
            self._process.stdin.write(line.encode())
            self._process.stdin.flush()
        try:
            answer = self._answers.get(timeout=max(0.0, seconds))
        except queue.Empty:
            raise PeerError(f"no answer within {seconds:.0f} s") from None
        if answer is None:
            raise PeerError(self._how_it_ended())
        if "fault" in answer:
            raise Refusal(answer["fault"], answer["code"])
        return answer["answer"]

    def clock_offset(self, seconds: float, tries: int = 5) -> tuple[float, float]:
        """Seconds that the host's clock is ahead of ours, and by how much that may be wrong: half a round trip."""
        best: tuple[float, float] | None = None
        for _ in range(tries):
            sent = time.time()
            start = time.perf_counter()
            there = self.ask("clock", seconds)
            doubt = (time.perf_counter() - start) / 2
            if best is None or doubt < best[1]:
                best = there - (sent + doubt), doubt
        assert best is not None
        return best

    def close(self) -> None:
        """End it, and what it started here. The probe there ends with its standard input."""
        with contextlib.suppress(OSError):
            assert self._process.stdin is not None
            self._process.stdin.close()
        try:
            self._process.wait(timeout=0.5)
        except subprocess.TimeoutExpired:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()

    def _read_answers(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:  # a login script may print lines of its own
            if line.startswith(MARK.encode()):
                self._answers.put(json.loads(line[len(MARK) :]))
        self._answers.put(None)

    def _read_stderr(self) -> None:
        assert self._process.stderr is not None
        for line in self._process.stderr:
            self._stderr = [*self._stderr, line.decode(errors="replace").rstrip()][-_LAST_WORDS:]

    def _how_it_ended(self) -> str:
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(timeout=1)
        self._readers[1].join(timeout=1)
        words = " ".join(line for line in self._stderr if line)
        code = self._process.poll()
        return words or (f"ended with exit code {code}" if code is not None else "closed the connection")

"""The watchdog ends a silent process, also where its last words take long or the interpreter is stuck."""

import ctypes
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from megatron.errors import PeerError
from megatron.training import watchdog
from megatron.training.watchdog import Watchdog


def ending(output: Path, limit: float, hang: Callable[[], object], last_words: Callable[[str], None]) -> int:
    """Exit code of a forked process that starts a watchdog and hangs; what it says goes to `output`."""
    child = os.fork()
    if child == 0:
        try:
            sys.stderr = output.open("w")
            Watchdog(limit, 0, last_words).start()
            hang()
        finally:
            os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


@pytest.mark.slow
def test_long_last_words_are_said_to_the_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A slow disk under the event log must not turn exit code 6 into the timer's 1."""
    monkeypatch.setattr(watchdog, "_LATER", 3.0)
    monkeypatch.delenv("MEGATRON_FAILURE_FOLDER", raising=False)
    code = ending(tmp_path / "said", 0.2, lambda: time.sleep(600), lambda message: time.sleep(5))
    said = (tmp_path / "said").read_text()
    assert code == PeerError.exit_code, said
    assert "the stacks of all threads follow" in said and "no sign of life" in said


@pytest.mark.slow
def test_a_stuck_interpreter_is_ended_by_the_timer_in_c(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watchdog, "_LATER", 0.5)
    with_the_lock = ctypes.PyDLL(None).sleep  # keeps the interpreter's lock: no thread of ours gets a turn
    code = ending(tmp_path / "said", 4.0, lambda: (time.sleep(0.2), with_the_lock(600)), lambda message: None)
    assert code == 1 and "Timeout" in (tmp_path / "said").read_text()

"""Kill a process at its N-th file event. It is forked from this one, where everything is imported already.

SIGKILL leaves the page cache alone, so this says nothing of a power cut; the order of syncs is tested by `events_of`.
"""

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

_CALLS = ("open", "write", "fsync", "mkdir", "replace", "rename", "unlink", "rmdir", "link")


def killed_at(number: int, action: Callable[[], Any]) -> bool:
    """Run `action` in a child that SIGKILLs itself at file event `number` (from 0). False: it ended before that.

    A write is cut in half at its event; any other call is not made. An exception in the child fails here.
    """
    child = os.fork()
    if child == 0:
        code = 1
        try:
            _watch(number, [], lambda: os.kill(os.getpid(), signal.SIGKILL))
            action()
            code = 0
        finally:
            os._exit(code)
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        assert os.WTERMSIG(status) == signal.SIGKILL
        return True
    assert os.WEXITSTATUS(status) == 0, "the action failed by itself"
    return False


def events_of(action: Callable[[], Any]) -> list[tuple[str, str]]:
    """(call, path) of every file event of `action`, run here. Writes and syncs go by the path that was opened."""
    events: list[tuple[str, str]] = []
    undo = _watch(None, events, lambda: None)
    try:
        action()
    finally:
        undo()
    return events


def stalls_at(number: int, sign: Path) -> None:
    """From here on this process stops for good at file event `number`, after making the file `sign`."""

    def stop() -> None:
        sign.touch()
        while True:
            signal.pause()

    _watch(number, [], stop)


def _watch(number: int | None, events: list[tuple[str, str]], at_number: Callable[[], None]) -> Callable[[], None]:
    """Replace the calls in `os`; returns what puts them back."""
    real = {name: getattr(os, name) for name in _CALLS}
    opened: dict[int, str] = {}

    def replacement(name: str) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            reading = name == "open" and not args[1] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
            if not reading:
                subject = args[0]
                events.append((name, opened.get(subject, "?") if isinstance(subject, int) else str(subject)))
                if number is not None and len(events) == number + 1:
                    if name == "write":
                        real["write"](args[0], args[1][: len(args[1]) // 2])
                    at_number()
            result = real[name](*args, **kwargs)
            if name == "open":
                opened[result] = str(args[0])
            return result

        return call

    for name in _CALLS:
        setattr(os, name, replacement(name))

    def undo() -> None:
        for name, function in real.items():
            setattr(os, name, function)

    return undo

"""Where this process is in its work: the step and what it does there. Messages carry it, the watchdog times it."""

import socket
import time

_what = "starting"
_step: int | None = None
_since = time.monotonic()


def at(what: str, step: int | None = None) -> None:
    """Now doing `what` (of step `step`); also a sign of life."""
    global _what, _step, _since
    _what, _step, _since = what, step if step is not None else _step, time.monotonic()


def place() -> str:
    """For example "step 12, evaluation"; "starting" before the first step."""
    return _what if _step is None else f"step {_step}, {_what}"


def silent_for() -> float:
    """Seconds since the last sign of life."""
    return time.monotonic() - _since


def host() -> str:
    return socket.gethostname()

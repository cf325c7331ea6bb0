"""Send all that this process and its children print through a display of its own process."""

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

from megatron.display.choose import wants_live
from megatron.launcher.display_lines import MARK, VARIABLE, display_is_on, event_line
from megatron.launcher.environment import python_path
from megatron.monitor.events import note_event
from megatron.neox_arguments.arguments import NeoXArgs

_SECONDS_TO_END = 10.0
# Should the display itself fall over, the lines for people go on to the terminal: the run must not notice.
_SHOW = 'trap "" INT TERM HUP USR1; "$@" || exec grep --line-buffered -av "$0"'


@contextlib.contextmanager
def display_of(args: NeoXArgs) -> Iterator[None]:
    """A live display while inside, where the settings and the terminal want one; else nothing changes.

    Standard output, and standard error where it is a terminal too, become the display's pipe: whoever is started
    inside inherits it. SettingsError when `display: live` cannot be.
    """
    if not wants_live(args.display, sys.stdout):
        yield
        return
    streams = [sys.stdout] + [sys.stderr] * _same_place()
    title = args.save or args.log_dir or "training run"
    screen = [sys.executable, "-m", "megatron.display.screen", title]
    command = ["sh", "-c", _SHOW, MARK, *screen]
    for stream in streams:
        stream.flush()
    process = subprocess.Popen(
        command, stdin=subprocess.PIPE, env={**os.environ, "PYTHONPATH": python_path(os.environ)}
    )
    assert process.stdin is not None
    kept = {stream.fileno(): os.dup(stream.fileno()) for stream in streams}
    for number in kept:
        os.dup2(process.stdin.fileno(), number)
    process.stdin.close()
    os.environ[VARIABLE] = "1"
    try:
        yield
    finally:
        del os.environ[VARIABLE]
        with contextlib.suppress(OSError):
            sys.stdout.write(event_line({"kind": "over"}) or "")
            for stream in streams:
                stream.flush()
        for number, original in kept.items():
            os.dup2(original, number)
            os.close(original)
        _end(process)


def tell(folder: str, kind: str, **fields: Any) -> None:
    """What only the launcher knows: into the run's event log, and to the display if there is one."""
    note_event(folder, kind, **fields)
    if display_is_on():
        sys.stdout.write(event_line({"time": time.time(), "kind": kind, **fields}) or "")
        sys.stdout.flush()


def _same_place() -> bool:
    """Whether errors go where the output goes."""
    try:
        out, err = os.fstat(sys.stdout.fileno()), os.fstat(sys.stderr.fileno())
    except (OSError, ValueError):
        return False
    return (out.st_dev, out.st_ino, out.st_rdev) == (err.st_dev, err.st_ino, err.st_rdev)


def _end(process: "subprocess.Popen[bytes]") -> None:
    """It has been told that all is over."""
    try:
        process.wait(_SECONDS_TO_END)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()

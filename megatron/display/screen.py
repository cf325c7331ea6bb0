"""The display's own process: `python -m megatron.display.screen`, fed with all that a run prints on standard input.

Lines for people go above the panel, event lines into it. It ends when it is told, or when nobody can write any more.
It reads on whatever
the terminal does: a terminal that is stopped (Ctrl-S) or gone must not hold up the run.
"""

import contextlib
import os
import queue
import signal
import sys
import threading
import time
from collections.abc import Iterator

from rich.console import Console
from rich.live import Live
from rich.text import Text

from megatron.display.panel import RunPanel
from megatron.display.state import RunState
from megatron.launcher.display_lines import MARK, read_event_line

_QUEUED_LINES = 20_000
_SECONDS_BETWEEN = 0.25
_CLOCK = 1.0


def main() -> int:
    """Show until the input ends."""
    for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1"):
        signal.signal(getattr(signal, name), signal.SIG_IGN)
    lines: queue.Queue[str | None] = queue.Queue(_QUEUED_LINES)
    threading.Thread(target=_read, args=(lines,), daemon=True).start()
    title = sys.argv[1] if len(sys.argv) > 1 else ""
    try:
        Screen(new_console(), title).run(lines)
    except OSError:  # the terminal is gone; the run is not
        for _ in iter(lines.get, None):
            pass
    return 0


def new_console() -> Console:
    """On standard output, which is a terminal or is to be treated like one; its cursor is never hidden.

    Thus a display that is killed leaves nothing behind that would have to be mended.
    """
    with contextlib.suppress(AttributeError):  # a stream that a test put there
        sys.stdout.reconfigure(errors="replace")  # type: ignore[union-attr]
    console = Console(force_terminal=True, highlight=False, markup=False, emoji=False, soft_wrap=False)
    console.show_cursor = lambda show=True: False  # type: ignore[method-assign]
    return console


class Screen:
    """A panel at the bottom of a terminal."""

    def __init__(self, console: Console, title: str) -> None:
        self.state = RunState(title)
        self.over = False
        self._console = console
        self._live = Live(
            RunPanel(self.state),
            console=console,
            auto_refresh=False,
            redirect_stdout=False,
            redirect_stderr=False,
            vertical_overflow="crop",
        )
        self._width = console.size.width

    def run(self, lines: "queue.Queue[str | None]") -> None:
        """Until None comes."""
        with self._live:
            shown = 0.0
            for batch in _batches(lines):
                self._take(batch)
                wait = shown + _SECONDS_BETWEEN - time.monotonic()
                if wait > 0 and batch:
                    time.sleep(min(wait, _SECONDS_BETWEEN))
                self._mind_the_width()
                self._live.refresh()
                shown = time.monotonic()
                if self.over:
                    return
            self.state.take({"kind": "lost"})
            self._live.refresh()

    def _take(self, batch: list[str]) -> None:
        text = []
        for line in batch:
            event = read_event_line(line)
            if event is not None:
                self.state.take(event)
                self.over = self.over or event["kind"] == "over"
            elif MARK not in line:
                text.append(_clean(line))
        if text:
            self._console.print(Text("\n").join(text), soft_wrap=True)

    def _mind_the_width(self) -> None:
        """A narrower window wraps the panel's lines: it then stands higher than rich believes.

        Rich moves up by the lines it printed. The terminal has made more of them; the difference is moved up first.
        """
        width = self._console.size.width
        if width < self._width:
            shape = self._live._live_render._shape
            if shape is not None and width:
                rows = shape[1] * (-(-min(shape[0], self._width) // width))
                self._live._live_render._shape = (width, rows)
        self._width = width


def _batches(lines: "queue.Queue[str | None]") -> Iterator[list[str]]:
    """What has come, at once; an empty one when the clock needs another look."""
    while True:
        batch: list[str] = []
        with contextlib.suppress(queue.Empty):
            first = lines.get(timeout=_CLOCK)
            while first is not None and len(batch) < 500:
                batch.append(first)
                first = lines.get_nowait()
            if first is None:
                yield batch
                return
        yield batch


def _read(lines: "queue.Queue[str | None]") -> None:
    """Empty the pipe for good; what a terminal that is stopped cannot take is lost from some point on."""
    rest = b""
    while data := os.read(0, 65536):
        *whole, rest = (rest + data).split(b"\n")
        if len(rest) > 65536:
            whole, rest = [*whole, rest], b""
        for line in whole:
            with contextlib.suppress(queue.Full):
                lines.put_nowait(line.decode("utf-8", "replace"))
    if rest:
        with contextlib.suppress(queue.Full):
            lines.put_nowait(rest.decode("utf-8", "replace"))
    lines.put(None)


def _clean(line: str) -> Text:
    """Colours stay; what moves the cursor would break the panel. Of a progress bar the last state counts."""
    return Text.from_ansi(line.rstrip("\r").rpartition("\r")[2])


if __name__ == "__main__":
    sys.exit(main())

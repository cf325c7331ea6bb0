"""The display's process on a pseudo-terminal, fed by a program that prints like a run."""

import io
import os
import signal
import sys
import time
from pathlib import Path

import pytest

from megatron.display.choose import wants_live
from megatron.errors import SettingsError
from megatron.launcher.display_lines import MARK
from tests.megatron.display.terminal import Terminal

# A launcher in small: what its child prints, errors too, goes through the display.
_PROGRAM = """
import subprocess, sys, os, signal, time
from types import SimpleNamespace
from megatron.display.attach import display_of, tell
with display_of(SimpleNamespace(display={display!r}, save={save!r}, log_dir=None)):
    subprocess.run([sys.executable, "-c", {child!r}])
    tell({save!r}, "exit", code=6, cause="rank 1 was killed")
print("after it")
"""
_CHILD = """
import os, sys, time
from megatron.launcher.display_lines import event_line
def say(kind, **fields):
    sys.stdout.write(event_line(dict(kind=kind, **fields)) or ""); sys.stdout.flush()
on = "MEGATRON_DISPLAY" in os.environ
if on:
    say("start", iteration=0, train_iters=40, layout=dict(pipeline=2, data=1))
print("a line of the run", flush=True)
for step in range(1, 21):
    if on:
        say("tick", iteration=step, train_iters=40, loss=5 - step / 10)
print("to errors", file=sys.stderr, flush=True)
if on:
    figures = dict(loss=3.0, lr=0.001, tokens_per_second=1234.0, kept_ratio=0.25, seconds=0.5)
    say("step", iteration=20, train_iters=40, **figures)
{more}
"""


def program(save: Path, display: str = "auto", more: str = "") -> list[str]:
    child = _CHILD.format(more=more)
    return [sys.executable, "-c", _PROGRAM.format(display=display, save=str(save), child=child)]


def screen_of(terminal: Terminal, columns: int = 100, rows: int = 30) -> list[str]:
    """What stands on the terminal in the end."""
    pyte = pytest.importorskip("pyte", reason="pip install pyte")
    screen = pyte.Screen(columns, rows)
    stream = pyte.ByteStream(screen)
    stream.feed(terminal.written)
    return [line.rstrip() for line in screen.display if line.strip()]


def test_lines_above_one_panel_that_stays(tmp_path: Path) -> None:
    terminal = Terminal(program(tmp_path))
    assert terminal.end() == 0, terminal.text()
    assert MARK not in terminal.text()
    shown = screen_of(terminal)
    assert shown[:2] == ["a line of the run", "to errors"] and shown[-1] == "after it"
    panel = "\n".join(shown[2:-1])
    assert panel.count("╭") == 1 and panel.startswith("╭") and shown[-2].startswith("╰")
    assert "20 / 40" in panel and "1,234" in panel and "25.0% of pairs" in panel and "3.0000" in panel
    assert "exit code 6. rank 1 was killed" in panel and "failed" in panel


def test_plain_leaves_the_output_alone(tmp_path: Path) -> None:
    terminal = Terminal(program(tmp_path, "plain"))
    assert terminal.end() == 0
    assert terminal.text().splitlines() == ["a line of the run", "to errors", "after it"]


def test_a_display_that_is_killed_does_not_hold_up_the_run(tmp_path: Path) -> None:
    """Its lines go on to the terminal without it."""
    done = tmp_path / "killed"
    more = f"while not os.path.exists({str(done)!r}): time.sleep(0.05)\nprint('the run goes on', flush=True)"
    terminal = Terminal(program(tmp_path, more=more))
    terminal.read_until("25.0%")
    display = _display_of(terminal.process.pid)
    os.kill(display, signal.SIGKILL)
    while _is_alive(display):  # until then it may still take a line with it
        time.sleep(0.01)
    done.touch()
    assert terminal.end() == 0
    tail = terminal.text()[-200:]
    assert "the run goes on" in tail and "after it" in tail and MARK not in tail


def test_a_stopped_terminal_does_not_hold_up_the_run(tmp_path: Path) -> None:
    """Nobody reads the terminal, as after Ctrl-S: more lines pass than fit into pipe and terminal, and the run ends."""
    done = tmp_path / "done"
    more = f"print(('x' * 99 + chr(10)) * 3000, flush=True)\nopen({str(done)!r}, 'w').close()"
    terminal = Terminal(program(tmp_path, more=more))
    deadline = time.monotonic() + 120
    while not done.exists():
        assert time.monotonic() < deadline, "the run waits for the terminal"
        time.sleep(0.05)
    assert terminal.end() == 0


def _is_alive(process: int) -> bool:
    """A dead one that nobody has asked for yet has no command line any more."""
    try:
        return bool(Path(f"/proc/{process}/cmdline").read_bytes())
    except OSError:
        return False


def _display_of(launcher: int) -> int:
    """The process that draws: a grandchild of the launcher, behind a shell."""
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                words = (entry / "cmdline").read_bytes().split(b"\0")
                parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
                grandparent = int(Path(f"/proc/{parent}/stat").read_text().rpartition(")")[2].split()[1])
            except (OSError, ValueError):
                continue
            if grandparent == launcher and b"megatron.display.screen" in words and words[0] != b"sh":
                return int(entry.name)
    raise AssertionError("no display found")


class _Stream(io.StringIO):
    def __init__(self, terminal: bool) -> None:
        super().__init__()
        self._terminal = terminal

    def isatty(self) -> bool:
        return self._terminal


def test_the_choice() -> None:
    terminal, pipe = _Stream(True), _Stream(False)
    good, dumb = {"TERM": "xterm"}, {"TERM": "dumb"}
    assert wants_live("auto", terminal, good) and wants_live("auto", terminal, {**good, "NO_COLOR": "1"})
    assert not wants_live("auto", pipe, good) and not wants_live("auto", terminal, dumb)
    assert not wants_live("plain", terminal, good) and wants_live("live", pipe, good)
    with pytest.raises(SettingsError, match="'dumb'"):
        wants_live("live", terminal, dumb)

"""`python deepy.py watch RUN`: the display of a run that something else started, from its event log as it grows."""

import argparse
import io
import json
import re
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from megatron.display.choose import wants_live
from megatron.display.state import RunState
from megatron.errors import DataError, SettingsError
from megatron.monitor.console import StepConsole
from megatron.monitor.step_result import StepResult

_LOOK_EVERY = 0.5


def parser() -> argparse.ArgumentParser:
    """The command's options."""
    parser = argparse.ArgumentParser(
        prog="deepy.py watch",
        description="Follow a run from its event log: on any host, at any time, as often as wanted.",
    )
    parser.add_argument("run", metavar="RUN", help="a run's save folder (or log_dir), or its events.jsonl")
    parser.add_argument(
        "--display", choices=("auto", "live", "plain"), default="auto", help="as the setting (default: auto)"
    )
    parser.add_argument("--once", action="store_true", help="show the run as it stands and leave")
    parser.add_argument("--svg", metavar="FILE", type=Path, help="write the panel as a picture as well; implies --once")
    parser.add_argument("--title", metavar="TEXT", help="over the panel; default: the run's folder")
    return parser


def main(argv: Sequence[str]) -> int:
    """Until the run's end is in the log, or Ctrl-C."""
    given = parser().parse_args(argv)
    path = Path(given.run)
    path = path / "events.jsonl" if path.is_dir() else path
    if not path.exists():
        raise DataError(f"{path} does not exist. Name the save folder (or log_dir) of a run that has begun.")
    title = given.title or str(path.parent)
    live = wants_live(given.display, sys.stdout)
    once = given.once or given.svg is not None
    try:
        if live or given.svg is not None:
            _show(path, title, once, given.svg)
        else:
            _print(path, once)
    except KeyboardInterrupt:
        print()
    return 0


def follow(path: Path, once: bool = False) -> Iterator[dict[str, Any] | None]:
    """The events of the log as they come; None when there is no more for the moment."""
    rest = b""
    with path.open("rb") as file:
        while True:
            data = file.read()
            *lines, rest = (rest + data).split(b"\n")
            for line in lines:
                event = _event(line)
                if event is not None:
                    yield event
            yield None
            if once:
                return
            if not data:
                time.sleep(_LOOK_EVERY)


def _event(line: bytes) -> dict[str, Any] | None:
    try:
        event = json.loads(line)
    except ValueError:
        return None  # cut by a crash
    return event if isinstance(event, dict) and isinstance(event.get("kind"), str) else None


def _show(path: Path, title: str, once: bool, svg: Path | None) -> None:
    from rich.console import Console
    from rich.live import Live

    from megatron.display.panel import RunPanel
    from megatron.display.screen import new_console

    state = RunState(title, begun=0.0)
    if once:
        for event in follow(path, once=True):
            _take(state, event)
        moment = state.ended or float(state.step.get("time") or time.time())
        panel = RunPanel(state, now=lambda: moment)
        if svg is None:
            new_console().print(panel)
            return
        console = Console(record=True, width=100, force_terminal=True, file=io.StringIO())
        console.print(panel)
        _save(console, svg, title)
        return
    with Live(RunPanel(state), console=new_console(), auto_refresh=False, vertical_overflow="crop") as shown:
        for event in follow(path):
            _take(state, event)
            if event is None:
                shown.refresh()
                if state.ended is not None:
                    return


def _take(state: RunState, event: dict[str, Any] | None) -> None:
    if event is not None:
        state.begun = state.begun or float(event.get("time") or time.time())
        state.take(event)


def _save(console: Any, path: Path, title: str) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        picture = console.export_svg(title=f"python deepy.py watch {title}")
        path.write_text(re.sub(r"@font-face \{.*?\}", "", picture, flags=re.DOTALL), encoding="utf-8")
    except OSError as error:
        raise SettingsError(f"cannot write the picture {path}: {error.strerror}.") from None


def _print(path: Path, once: bool) -> None:
    """Step lines, as the run prints them in a log, and a line for each other event that the display knows."""
    state, console = RunState(begun=0.0), StepConsole(print)
    names = {field.name for field in fields(StepResult)}
    for event in follow(path, once):
        if event is None:
            if state.ended is not None:
                return
            continue
        _take(state, event)
        if event["kind"] == "step":
            numbers = {key: _number(value) for key, value in event.items() if key in names}
            console.show(StepResult(**numbers))
        elif event["kind"] in ("resume", "rollback", "validation", "test", "save", "fault", "exit", "stop", "end"):
            console.interrupted()
            print(_sentence(event))


def _number(value: Any) -> Any:
    return float(value) if isinstance(value, str) else value


def _sentence(event: dict[str, Any]) -> str:
    words = event.get("message") or event.get("cause") or event.get("reason") or event.get("folder") or ""
    if "loss" in event:
        words = f"{event.get('set', '')}: loss {_number(event['loss']):.4f}"
    place = f" at step {event['iteration']}" if "iteration" in event else ""
    return f"{event['kind']}{place} {words}".rstrip()

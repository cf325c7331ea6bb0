"""Checks as aligned lines, one after the other as they finish, and as JSON."""

import shutil
import sys
import textwrap
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any, TextIO

from megatron.launcher.exit_codes import describe_code
from megatron.monitor.console import format_figures
from megatron.preflight.result import Result, exit_code

_NAME, _STATE = 12, 8
_LONGEST_LINE = 120
_COLOURS = {"pass": "32", "warn": "33", "fail": "31", "skipped": "2"}


def line_of(result: Result, width: int, colours: bool = False) -> str:
    """`name  state  what was found`, further lines and the advice below, all of them indented alike."""
    state = f"{result.state.upper() if result.state == 'fail' else result.state:<{_STATE}}"
    if colours:
        state = f"\033[{_COLOURS[result.state]}m{state}\033[0m"
    indent = " " * (_NAME + _STATE)
    room = max(40, width - len(indent))
    found = [line for text in result.found.splitlines() for line in _wrapped(text, room)]
    advice = [line for text in result.advice.splitlines() for line in _wrapped(f"-> {text}", room)]
    first, *rest = [*(found or [""]), *advice]
    return "\n".join([f"{result.name:<{_NAME}}{state}{first}".rstrip(), *(f"{indent}{line}" for line in rest)])


def closing_line(results: Sequence[Result], seconds: float) -> str:
    """How many passed and what did not."""
    bad = [result.name for result in results if result.state == "fail"]
    open_ = [result.name for result in results if result.state == "skipped"]
    left = f"; skipped: {', '.join(open_)}" if open_ else ""
    if bad:
        return f"{len(bad)} of {len(results)} failed ({', '.join(bad)}){left}; {describe_code(exit_code(results))}"
    warned = [result.name for result in results if result.state == "warn"]
    look = f"; look at {', '.join(warned)}" if warned else ""
    return f"nothing failed in {seconds:.0f} s{look}{left}"


def as_json(results: Sequence[Result], hosts: Sequence[str], seconds: float) -> dict[str, Any]:
    """For programs."""
    return {
        "hosts": list(hosts),
        "seconds": round(seconds, 1),
        "exit_code": exit_code(results),
        "checks": [asdict(result) for result in results],
    }


def counted(number: int, thing: str) -> str:
    """1 rank, 2 ranks."""
    return f"{number} {thing}" + ("" if number == 1 else "s")


def bytes_text(count: float) -> str:
    """Three figures and a unit: 64 MiB, 1.95 GiB."""
    unit, size = "bytes", float(count)
    for larger in ("KiB", "MiB", "GiB", "TiB"):
        if abs(size) < 1000:
            break
        unit, size = larger, size / 1024
    return f"{format_figures(size) if unit != 'bytes' else int(size)} {unit}"


class Table:
    """Prints results as they come."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = stream or sys.stdout
        self._colours = self._stream.isatty()
        self._width = min(shutil.get_terminal_size().columns, _LONGEST_LINE) if self._colours else _LONGEST_LINE

    def show(self, result: Result) -> None:
        self.say(line_of(result, self._width, self._colours))

    def say(self, text: str) -> None:
        self._stream.write(text + "\n")
        self._stream.flush()


def _wrapped(text: str, room: int) -> list[str]:
    """Long words, which are paths and commands, stay whole: people copy them."""
    return textwrap.wrap(text, room, break_long_words=False, break_on_hyphens=False) or [""]

"""What one check found, and the exit code of all of them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

State = Literal["pass", "warn", "fail", "skipped"]


@dataclass(frozen=True)
class Result:
    """One check. found: what there is, with values; advice: what to do about it; code: exit code of a failure."""

    name: str
    state: State
    found: str
    advice: str = ""
    code: int = 0


def passed(name: str, found: str) -> Result:
    return Result(name, "pass", found)


def warned(name: str, found: str, advice: str) -> Result:
    """Not as it should be, but the run can start."""
    return Result(name, "warn", found, advice)


def failed(name: str, found: str, advice: str, code: int = 2) -> Result:
    return Result(name, "fail", found, advice, code)


def skipped(name: str, reason: str) -> Result:
    return Result(name, "skipped", reason)


def exit_code(results: Sequence[Result]) -> int:
    """The smallest code of what failed: settings before data before checkpoints, the order of mending. 0: none did."""
    return min((result.code for result in results if result.state == "fail"), default=0)

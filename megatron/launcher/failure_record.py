"""The note that a failing rank leaves for the launcher, so that eight ranks with one fault print it once.

The launcher names a private folder in an environment variable; a rank started by anything else has none and prints
its own message.
"""

import contextlib
import json
import os
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from megatron.launcher.place import host, place

FOLDER_VARIABLE = "MEGATRON_FAILURE_FOLDER"
_SAVED = "saved-step"


@dataclass(frozen=True)
class FailureRecord:
    """One rank's last words. seconds: time.monotonic(), comparable between the processes of one host.

    place: the step and what it did there.
    """

    rank: int
    host: str
    code: int
    kind: str
    message: str
    seconds: float
    place: str = ""


def leave_record(code: int, kind: str, message: str) -> bool:
    """Write this rank's record where the launcher looks. False: there is no launcher, say it yourself."""
    folder = os.environ.get(FOLDER_VARIABLE)
    rank = os.environ.get("RANK", "")
    if not folder or not rank.isdigit():
        return False
    record = FailureRecord(int(rank), host(), code, kind, message, time.monotonic(), place())
    try:
        keep_record(Path(folder), record)
    except OSError:
        return False
    return True


def read_record(folder: Path, rank: int) -> FailureRecord | None:
    """The record of one rank, or None if it left none."""
    try:
        return FailureRecord(**json.loads((folder / f"rank-{rank}.json").read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None


def seconds_ago(record: FailureRecord) -> float:
    """How long ago it was left, on the host where it was left: what another host can make sense of."""
    return time.monotonic() - record.seconds


def keep_record(folder: Path, record: FailureRecord) -> None:
    """Put a record where `read_record` finds it: one that another host has sent."""
    path = folder / f"rank-{record.rank}.json"
    unfinished = path.with_suffix(".tmp")
    unfinished.write_text(json.dumps(asdict(record)), encoding="utf-8")
    unfinished.replace(path)


def note_saved_step(step: int) -> None:
    """Tell the launcher that a checkpoint of this step is whole: a restart from here on is progress."""
    folder = os.environ.get(FOLDER_VARIABLE)
    if folder:
        with contextlib.suppress(OSError):
            unfinished = Path(folder) / "saved.tmp"
            unfinished.write_text(str(step), encoding="ascii")
            unfinished.replace(Path(folder) / _SAVED)


def read_saved_step(folder: Path) -> int | None:
    """The newest step noted by `note_saved_step`, or None."""
    try:
        return int((folder / _SAVED).read_text(encoding="ascii"))
    except (OSError, ValueError):
        return None

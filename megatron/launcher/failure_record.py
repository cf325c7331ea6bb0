"""The note that a failing rank leaves for the launcher, so that eight ranks with one fault print it once.

The launcher names a private folder in an environment variable; a rank started by anything else has none and prints
its own message.
"""

import json
import os
import socket
import time
from dataclasses import asdict, dataclass
from pathlib import Path

FOLDER_VARIABLE = "MEGATRON_FAILURE_FOLDER"


@dataclass(frozen=True)
class FailureRecord:
    """One rank's last words. seconds: time.monotonic(), comparable between the processes of one host."""

    rank: int
    host: str
    code: int
    kind: str
    message: str
    seconds: float


def leave_record(code: int, kind: str, message: str) -> bool:
    """Write this rank's record where the launcher looks. False: there is no launcher, say it yourself."""
    folder = os.environ.get(FOLDER_VARIABLE)
    rank = os.environ.get("RANK", "")
    if not folder or not rank.isdigit():
        return False
    record = FailureRecord(int(rank), socket.gethostname(), code, kind, message, time.monotonic())
    path = Path(folder) / f"rank-{rank}.json"
    try:
        unfinished = path.with_suffix(".tmp")
        unfinished.write_text(json.dumps(asdict(record)), encoding="utf-8")
        unfinished.replace(path)
    except OSError:
        return False
    return True


def read_record(folder: Path, rank: int) -> FailureRecord | None:
    """The record of one rank, or None if it left none."""
    try:
        return FailureRecord(**json.loads((folder / f"rank-{rank}.json").read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None

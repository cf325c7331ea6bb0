"""The event log: one JSON object per line, appended as the run goes, whole again after any crash.

Every line has `time` (seconds since 1970, UTC) and `kind` (start, resume, step, validation, save, stop, end, ...).
NaN and infinities are written as the strings "NaN", "Infinity", "-Infinity", which float() reads back: JSON has none.
"""

import json
import logging
import math
import os
import time
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any

from megatron.errors import DataError, SettingsError
from megatron.neox_arguments.secrets import hide

_logger = logging.getLogger(__name__)

_ON_DISK_BEFORE_RETURN = ("save", "stop", "end", "fault", "exit")


class EventLog:
    """Appends events to a file. A full disk later on costs lines, never the run."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._file = self.path.open("a+b", buffering=0)
        except OSError as error:
            raise SettingsError(f"cannot write the event log {self.path}: {error.strerror}.") from None
        self._failed = False
        self._end_a_cut_line()

    def write(self, kind: str, **fields: Any) -> None:
        """Append one event; on disk (fsync) before return for save, stop, end and fault."""
        event = {"time": round(time.time(), 3), "kind": kind, **fields}
        line = json.dumps(_plain(event), ensure_ascii=False, allow_nan=False) + "\n"
        line = hide(line)
        try:
            self._file.write(line.encode())
            if kind in _ON_DISK_BEFORE_RETURN:
                os.fsync(self._file.fileno())
        except OSError as error:
            if not self._failed:
                _logger.warning("the event log %s misses lines from here on: %s", self.path, error.strerror)
            self._failed = True

    def close(self) -> None:
        """Close the file; writing afterwards is an error."""
        self._file.close()

    def __enter__(self) -> "EventLog":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _end_a_cut_line(self) -> None:
        """A run killed in the middle of a line left no newline: ours must not be glued to its half line."""
        end = self._file.seek(0, os.SEEK_END)
        if end == 0:
            return
        self._file.seek(end - 1)
        if self._file.read(1) != b"\n":
            self._file.write(b"\n")


def note_event(folder: str | Path, kind: str, **fields: Any) -> None:
    """Append one event to the log of the run in `folder`, if it has one: what only the launcher knows."""
    path = Path(folder) / "events.jsonl"
    if path.exists():
        with EventLog(path) as log:
            log.write(kind, **fields)


def read_events(path: str | Path) -> Iterator[dict[str, Any]]:
    """Yield the events of a log in order; lines cut by a crash are left out.

    DataError when the file is missing, or when it holds no event log at all.
    """
    path = Path(path)
    try:
        lines = path.read_bytes().splitlines()
    except OSError as error:
        raise DataError(f"cannot read the event log {path}: {error.strerror}.") from None
    good = 0
    for line in lines:
        try:
            event = json.loads(line)
        except ValueError:
            continue
        if isinstance(event, dict) and isinstance(event.get("kind"), str):
            good += 1
            yield event
    if lines and not good:
        raise DataError(f"{path} is no event log: none of its {len(lines)} lines is a JSON object with a 'kind'.")


def _plain(value: Any) -> Any:
    """JSON-able: paths and other objects as text, NaN and infinities as JavaScript spells them."""
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    if value is None or isinstance(value, bool | int | float | str):
        return value
    return str(value)

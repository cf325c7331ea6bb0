"""What the launching machine and the agents on the hosts say to each other: JSON, one object a line, behind a mark.

Lines without the mark are text: what a login shell prints before the agent starts, or ssh's own words.
"""

import json
from typing import Any

Frame = dict[str, Any]

_MARK = b"\x1e"  # ASCII's record separator
_LONGEST_TEXT = 65536


def encode(frame: Frame) -> bytes:
    return _MARK + json.dumps(frame).encode("ascii") + b"\n"


class Splitter:
    """Cuts a stream of bytes into frames and lines of text."""

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, data: bytes) -> list[Frame | str]:
        """What has become whole by these bytes, in order."""
        *lines, self._rest = (self._rest + data).split(b"\n")
        found: list[Frame | str] = []
        for line in lines:
            text, mark, body = line.partition(_MARK)
            frame = _frame(body) if mark else None
            if frame is None:
                text = line
            if text.strip():
                found.append(text.decode("utf-8", "replace").rstrip())
            if frame is not None:
                found.append(frame)
        if len(self._rest) > _LONGEST_TEXT and _MARK not in self._rest:
            found.append(self._rest.decode("utf-8", "replace"))
            self._rest = b""
        return found

    def end(self) -> list[Frame | str]:
        """The last line, if it has no end."""
        return self.feed(b"\n") if self._rest else []


def _frame(body: bytes) -> Frame | None:
    try:
        frame = json.loads(body)
    except ValueError:
        return None
    return frame if isinstance(frame, dict) else None

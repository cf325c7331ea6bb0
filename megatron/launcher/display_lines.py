"""Lines for a live display among the lines for people: an event as JSON behind a mark.

The launcher that shows a display sets a variable in the environment of the ranks; rank 0 then writes such lines to
its standard output, and the display, through which all output goes, takes them out again.
"""

import json
import os
from typing import Any

VARIABLE = "MEGATRON_DISPLAY"
MARK = "\x02"  # ASCII's start of text; str.splitlines() would cut at a record separator
# A pipe keeps lines of several processes apart up to 4096 bytes.
_LONGEST = 4000
_LONGEST_TEXT = 600


def display_is_on() -> bool:
    """Whether the output of this process goes through a display."""
    return VARIABLE in os.environ


def event_line(event: dict[str, Any]) -> str | None:
    """One line with its end, of what a display needs of the event; None for what it cannot use."""
    small = {
        key: _cut(value) for key, value in event.items() if not isinstance(value, list | tuple) and key != "settings"
    }
    line = f"{MARK}{json.dumps(small, default=str)}\n"
    return line if len(line) <= _LONGEST else None


def read_event_line(line: str) -> dict[str, Any] | None:
    """The event in a line, whatever a host's or rank's name before the mark; None for a line for people."""
    _, mark, body = line.partition(MARK)
    if not mark:
        return None
    try:
        event = json.loads(body)
    except ValueError:
        return None
    return event if isinstance(event, dict) and isinstance(event.get("kind"), str) else None


def without_event_lines(lines: bytes) -> bytes:
    """What a log file keeps of a rank's output."""
    mark = MARK.encode()
    if mark not in lines:
        return lines
    return b"".join(line for line in lines.splitlines(keepends=True) if mark not in line)


def _cut(value: Any) -> Any:
    return value[:_LONGEST_TEXT] if isinstance(value, str) else value

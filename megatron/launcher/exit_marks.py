"""Exit codes of ranks that an MPI launcher started: a marked line from each, since launchers mix or lose the codes.

MPICH's hands on all codes joined by OR, Open MPI's that of one rank, and both say 0 or 1 after a signal.
"""

import contextlib
import os
import re

from megatron.launcher.exit_codes import RankExit

VARIABLE = "DEEPY_EXIT_MARKS"
_LINE = re.compile(rb"\x1edeepy: rank (\d+) ended with (\d+)\x1e\n")
_LONGEST = 80


def leave_mark(code: int) -> None:
    """Called at the end of a script; nothing happens unless the launcher asked for marks."""
    rank = os.environ.get("RANK", "")
    if os.environ.get(VARIABLE) and rank.isdigit():
        with contextlib.suppress(OSError):
            os.write(2, f"\x1edeepy: rank {rank} ended with {code}\x1e\n".encode("ascii"))


class MarkReader:
    """Takes the marks out of a stream of bytes."""

    def __init__(self) -> None:
        self.exits: list[RankExit] = []
        self._rest = b""

    def feed(self, data: bytes) -> bytes:
        """What is left of these bytes for the user's eyes; a mark that has only begun waits for its end."""
        text = _LINE.sub(self._note, self._rest + data)
        begun = text.find(b"\x1e", max(0, len(text) - _LONGEST))
        whole = len(text) if begun < 0 else begun
        self._rest = text[whole:]
        return text[:whole]

    def end(self) -> bytes:
        """What never became a mark."""
        rest, self._rest = self._rest, b""
        return rest

    def _note(self, match: re.Match[bytes]) -> bytes:
        self.exits.append(RankExit(int(match[1]), int(match[2]), float(len(self.exits))))
        return b""

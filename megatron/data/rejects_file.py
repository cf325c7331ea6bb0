"""The list of documents that were left out: one `file:line:byte: reason` a line, as many as are worth listing."""

import os
from pathlib import Path
from typing import IO

LISTED_REJECTS = 10_000


class RejectsFile:
    """Counts and lists; there is no file while there is nothing to list.

    count, first: of all so far, listed or not.  `state()` as arguments continues an earlier list.
    """

    def __init__(self, path: Path, *, count: int = 0, first: str = "", size: int = 0) -> None:
        self.path, self.count, self.first = path, count, first
        self._file: IO[bytes] | None = None
        if count:
            self._file = path.open("ab")
            self._file.truncate(min(size, self._file.tell()))
        else:
            path.unlink(missing_ok=True)

    def add(self, rejects: list[str]) -> None:
        for text in rejects:
            self.count += 1
            if self._file is None:
                self.first = text
                self._file = self.path.open("wb")
            if self.count <= LISTED_REJECTS:
                self._file.write(text.encode("utf-8", "backslashreplace") + b"\n")

    def state(self) -> dict[str, int | str]:
        """The arguments that continue this list, once it is on disk."""
        return {"count": self.count, "first": self.first, "size": self._file.tell() if self._file else 0}

    def sync(self) -> None:
        """Everything so far is on disk."""
        if self._file is not None:
            self._file.flush()
            os.fsync(self._file.fileno())

    def close(self) -> None:
        if self._file is not None:
            if self.count > LISTED_REJECTS:
                self._file.write(b"and %d more\n" % (self.count - LISTED_REJECTS))
            self._file.close()

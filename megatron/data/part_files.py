"""A data set in the making that outlives its process: `<prefix>.bin.part` and `<prefix>.sizes.part`.

Document sizes go to disk as they come, so memory does not grow with their number. Training never sees these names.
"""

import contextlib
import fcntl
import os
import time
from io import BufferedRandom
from pathlib import Path

import numpy as np

from megatron.data.index_file import write_index
from megatron.errors import DataError

LOCK_PATIENCE = 3.0  # seconds
_SIZE = np.dtype("<i4")


class PartFiles:
    """Appends documents of one sequence each; `finish` turns the two files into `.bin` and `.idx`.

    documents, tokens: how much of existing part files is to be kept (0, 0: none of it). DataError: the folder cannot
    be written, another process is at work there, or the part files are shorter than they should be.
    """

    def __init__(self, prefix: Path, dtype: np.dtype, *, documents: int = 0, tokens: int = 0) -> None:
        self.prefix, self.dtype, self.documents, self.tokens = prefix, dtype, documents, tokens
        self._paths = [Path(f"{prefix}.{kind}.part") for kind in ("bin", "sizes")]
        lengths = [tokens * dtype.itemsize, documents * _SIZE.itemsize]
        try:
            prefix.parent.mkdir(parents=True, exist_ok=True)
            self._files = [self._open_alone(self._paths[0]), _open(self._paths[1])]
        except OSError as error:
            raise DataError(f"{prefix}: cannot write there: {error}.") from error
        for file, path, length in zip(self._files, self._paths, lengths, strict=True):
            if (found := os.fstat(file.fileno()).st_size) < length:
                raise DataError(
                    f"{path}: expected at least {length} bytes of the interrupted run, found {found}. "
                    "Delete the *_unfinished.json beside it to start from the beginning."
                )
            file.truncate(length)
            file.seek(length)

    def add(self, ids: np.ndarray, sizes: np.ndarray) -> None:
        """ids: of all documents, joined, in the data set's type.  sizes: tokens of each document."""
        self._files[0].write(ids.astype(self.dtype, copy=False).data)
        self._files[1].write(sizes.astype(_SIZE, copy=False).data)
        self.documents += len(sizes)
        self.tokens += len(ids)

    def sync(self) -> None:
        """Everything so far is on disk."""
        for file in self._files:
            file.flush()
            os.fsync(file.fileno())

    def finish(self) -> None:
        """Write the index and give both files their names; from here on it is a data set."""
        self.sync()
        index, draft = Path(f"{self.prefix}.idx"), Path(f"{self.prefix}.idx.part")
        sizes = np.memmap(self._paths[1], _SIZE, "r", shape=(self.documents,)) if self.documents else np.zeros(0, _SIZE)
        with draft.open("wb") as file:
            write_index(file, self.dtype, sizes, None)
            file.flush()
            os.fsync(file.fileno())
        self._paths[1].unlink()  # while the other still bears the lock: the next run must not open it
        # Without its index a data set is missing, never wrong: the old index goes first, the new one comes last.
        index.unlink(missing_ok=True)
        self._paths[0].replace(f"{self.prefix}.bin")
        draft.replace(index)
        self.close()

    def close(self) -> None:
        """Leave the part files for a later run."""
        for file in self._files:
            file.close()

    def remove(self) -> None:
        """Leave nothing, and close. The file that bears the lock goes last."""
        for path in reversed(self._paths):
            path.unlink(missing_ok=True)
        self.close()

    @staticmethod
    def _open_alone(path: Path) -> BufferedRandom:
        """Open and lock; anew when the file was finished, and got its other name, while this process waited."""
        patience = time.monotonic() + LOCK_PATIENCE
        while True:
            file = _open(path)
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                if time.monotonic() > patience:
                    file.close()
                    raise DataError(
                        f"{path}: another process is writing it. Wait, or choose another --output-prefix."
                    ) from error
                time.sleep(0.1)  # the workers of a run that was just killed take a moment to notice
            except OSError:
                return file  # a file system without locks: nothing to be had
            else:
                with contextlib.suppress(FileNotFoundError):
                    if os.path.samestat(os.fstat(file.fileno()), os.stat(path)):
                        return file
            file.close()


def _open(path: Path) -> BufferedRandom:
    return os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT, 0o666), "r+b")

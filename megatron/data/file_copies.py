"""Copy stretches of large files at the speed of the disk, under names that only complete files get."""

import errno
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from megatron.errors import DataError

BLOCK = 1 << 20
_SPAN = 1 << 28  # bytes handed to the system at once
_NO_COPY_IN_KERNEL = (errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.EPERM)

Report = Callable[[int], None]


def copy_stretch(path: Path, start: int, count: int, target: int, place: int, progress: Report) -> None:
    """Copy `count` bytes of `path` from `start` on to byte `place` of the open file `target`."""
    with path.open("rb", buffering=0) as source:
        done = 0
        in_kernel = hasattr(os, "copy_file_range")
        buffer = memoryview(bytearray(1))
        while done < count:
            if in_kernel:
                try:
                    step = os.copy_file_range(
                        source.fileno(), target, min(_SPAN, count - done), start + done, place + done
                    )
                except OSError as error:
                    if error.errno not in _NO_COPY_IN_KERNEL:
                        raise
                    in_kernel = False  # another file system, for instance: read and write it is
                    continue
            else:
                if len(buffer) == 1:
                    buffer = memoryview(bytearray(BLOCK))
                step = os.preadv(source.fileno(), [buffer[: min(BLOCK, count - done)]], start + done)
                write_all(target, buffer[:step], place + done)
            if step == 0:
                raise DataError(f"{path}: ends at byte {start + done}, expected {start + count}: it was shortened.")
            done += step
            progress(step)


def write_all(target: int, data: memoryview, place: int) -> None:
    while data:
        count = os.pwrite(target, data, place)
        data, place = data[count:], place + count


def copy_whole(source: Path, target: Path) -> None:
    with draft_of(target) as file:
        copy_stretch(source, 0, source.stat().st_size, file.fileno(), 0, lambda count: None)


@contextmanager
def draft_of(target: Path) -> Iterator[BinaryIO]:
    """A file that takes the name `target` when the block ends well, and goes away when it does not."""
    path = target.with_name(f"{target.name}.{os.getpid()}.tmp")
    try:
        with path.open("wb") as file:
            yield file
        path.replace(target)
    except OSError as error:
        raise DataError(f"{target}: cannot write it: {error}.") from error
    finally:
        path.unlink(missing_ok=True)


def make_room(folder: Path, num_bytes: int) -> None:
    """Make the folder; DataError when the disk has not enough free space, before an hour of copying shows it."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(folder).free
    except OSError as error:
        raise DataError(f"{folder}: cannot write there: {error}.") from error
    if free < num_bytes:
        raise DataError(f"{folder}: needs {num_bytes} bytes, only {free} are free on that disk.")

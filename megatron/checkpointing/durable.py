"""Writes that are on disk before anything relies on them: content first, then its name, then the folder's entry."""

import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

_LARGEST_WRITE = 16 << 20


def write_file(path: Path, parts: Iterable[bytes | memoryview]) -> None:
    """Write the parts one after another into a new or emptied file, and sync it. OSError names the file."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666)
    try:
        for part in parts:
            rest = memoryview(part)
            while rest:
                rest = rest[os.write(descriptor, rest[:_LARGEST_WRITE]) :]
        os.fsync(descriptor)
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from error
    finally:
        os.close(descriptor)


def write_json(path: Path, content: Any) -> None:
    """Write JSON under a temporary name, sync, rename, sync the folder."""
    temporary = path.with_name(path.name + ".tmp")
    write_file(temporary, [json.dumps(content, indent=1, ensure_ascii=False).encode()])
    os.replace(temporary, path)
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Make the folder's entries (new names, renames) survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

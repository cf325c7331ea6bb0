"""The manifest makes a folder a checkpoint: it lists each file's size and SHA-256 and is written last.

All writes here are durable: content and folder entries are synced before the next step relies on them.
"""

import hashlib
import json
import os
from pathlib import Path
from typing import Any

from megatron.checkpointing.folders import MANIFEST
from megatron.errors import CheckpointError

FORMAT = "sepllm-checkpoint"
VERSION = 1


def write_json(path: Path, content: Any) -> None:
    """Write JSON under a temporary name, sync, rename."""
    temporary = path.with_name(path.name + ".tmp")
    with open(temporary, "w", encoding="utf-8") as file:
        json.dump(content, file, indent=1, ensure_ascii=False)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)
    sync_folder(path.parent)


def sync_file(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


sync_folder = sync_file  # on Linux a folder is synced through a descriptor just as a file is


def describe_file(path: Path) -> dict[str, Any]:
    """{"bytes": size, "sha256": hex digest} of a file."""
    with open(path, "rb") as file:
        digest = hashlib.file_digest(file, "sha256") if hasattr(hashlib, "file_digest") else _digest(file)
    return {"bytes": path.stat().st_size, "sha256": digest.hexdigest()}


def write_manifest(folder: Path, files: dict[str, dict[str, Any]]) -> None:
    write_json(folder / MANIFEST, {"format": FORMAT, "version": VERSION, "files": files})


def check_manifest(folder: Path, *, hashes: bool = True) -> None:
    """Raise CheckpointError naming the first file that is missing, cut, or changed.

    hashes=False compares sizes only (cheap: no file content is read).
    """
    files = read_manifest(folder)
    for name, expected in files.items():
        path = folder / name
        if not path.is_file():
            raise CheckpointError(f"{path} is missing, though {MANIFEST} lists it.")
        size = path.stat().st_size
        if size != expected["bytes"]:
            raise CheckpointError(f"{path} has {size} bytes, {MANIFEST} says {expected['bytes']}.")
        if hashes and describe_file(path)["sha256"] != expected["sha256"]:
            raise CheckpointError(f"{path} is damaged: its SHA-256 differs from the one in {MANIFEST}.")


def read_manifest(folder: Path) -> dict[str, dict[str, Any]]:
    """File name -> {"bytes", "sha256"}; CheckpointError when it is absent, unreadable or of another format."""
    path = folder / MANIFEST
    if not path.is_file():
        raise CheckpointError(f"{folder} has no {MANIFEST}: its save never finished, or it is not ours.")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if (content["format"], content["version"]) != (FORMAT, VERSION):
            raise CheckpointError(
                f"{path} is {content['format']!r} version {content['version']!r}; "
                f"this program reads {FORMAT!r} version {VERSION}."
            )
        return dict(content["files"])
    except (ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{path} cannot be read as a manifest: {error!r}.") from error


def _digest(file: Any) -> Any:
    digest = hashlib.sha256()  # Python 3.10 has no hashlib.file_digest
    while block := file.read(1 << 20):
        digest.update(block)
    return digest

"""The manifest makes a folder a checkpoint: it lists each file's size and SHA-256 hashes and is written last.

A file has one hash per 64 MiB, so that several cores can check it at once; that of a smaller file is what `sha256sum`
prints. The hashes find damage. They are no signature: whoever can write the files can write the manifest.
"""

import hashlib
import json
import os
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from megatron.checkpointing.durable import write_json
from megatron.checkpointing.folders import MANIFEST
from megatron.errors import CheckpointError

FORMAT = "sepllm-checkpoint"
VERSION = 2
CHUNK = 64 << 20
_BLOCK = 1 << 20

Buffer = bytes | memoryview


def describe_file(path: Path) -> dict[str, Any]:
    """{"bytes": size, "sha256": [hex digest of each 64 MiB]} of a file on disk."""
    size = path.stat().st_size
    with open(path, "rb", buffering=0) as file, _pool(size) as pool:
        starts = range(0, max(size, 1), CHUNK)
        return {"bytes": size, "sha256": list(pool.map(lambda start: _hash_range(file.fileno(), start), starts))}


def describe_parts(parts: Sequence[Buffer]) -> dict[str, Any]:
    """The same of a file that consists of these parts, from memory."""
    size = sum(memoryview(part).nbytes for part in parts)
    with _pool(size) as pool:
        return {"bytes": size, "sha256": list(pool.map(_hash_parts, _chunks(parts)))}


def write_manifest(folder: Path, files: dict[str, dict[str, Any]]) -> None:
    write_json(folder / MANIFEST, {"format": FORMAT, "version": VERSION, "files": files})


def check_manifest(folder: Path, *, hashes: bool = True, share: tuple[int, int] = (0, 1)) -> None:
    """Raise CheckpointError naming the first file that is missing, cut, or changed.

    hashes=False compares sizes only (cheap: no file content is read). share=(k, n): hash every n-th file from the
    k-th on, so that n ranks can divide the work.
    """
    for number, (name, expected) in enumerate(read_manifest(folder).items()):
        path = folder / name
        if not path.is_file():
            raise CheckpointError(f"{path} is missing, though {MANIFEST} lists it.")
        size = path.stat().st_size
        if size != expected["bytes"]:
            raise CheckpointError(f"{path} has {size} bytes, {MANIFEST} says {expected['bytes']}.")
        if hashes and number % share[1] == share[0]:
            try:
                found = describe_file(path)["sha256"]
            except OSError as error:
                raise CheckpointError(f"{path} cannot be read: {error.strerror}.") from error
            if found != expected["sha256"]:
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
        return {_file_name(name): _entry(entry) for name, entry in content["files"].items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{path} cannot be read as a manifest: {error!r}.") from error


def _file_name(name: str) -> str:
    if Path(name).name != name or name in ("", ".", ".."):
        raise ValueError(f"{name!r} is no file name")
    return name


def _entry(entry: dict[str, Any]) -> dict[str, Any]:
    size, hashes = entry["bytes"], entry["sha256"]
    if not isinstance(size, int) or not isinstance(hashes, list):
        raise TypeError(f"{entry!r} is no size and list of hashes")
    return {"bytes": size, "sha256": hashes}


def _pool(size: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(max(1, min(os.cpu_count() or 1, 8, -(-size // CHUNK))))


def _hash_range(descriptor: int, start: int) -> str:
    digest, position, end = hashlib.sha256(), start, start + CHUNK
    while position < end and (block := os.pread(descriptor, min(_BLOCK, end - position), position)):
        digest.update(block)
        position += len(block)
    return digest.hexdigest()


def _hash_parts(parts: Iterable[memoryview]) -> str:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part)
    return digest.hexdigest()


def _chunks(parts: Sequence[Buffer]) -> list[list[memoryview]]:
    """The same bytes as pieces of CHUNK bytes, each a list of views; one empty piece when there are none."""
    chunks: list[list[memoryview]] = [[]]
    room = CHUNK
    for part in parts:
        rest = memoryview(part).cast("B")
        while rest.nbytes:
            if room == 0:
                chunks.append([])
                room = CHUNK
            chunks[-1].append(rest[:room])
            taken = chunks[-1][-1].nbytes
            rest, room = rest[taken:], room - taken
    return chunks

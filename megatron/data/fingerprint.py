"""A cheap hash that changes when a file does: whole for small files, evenly spread blocks of large ones."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

WHOLE_BELOW = 1 << 24
BLOCKS, BLOCK = 64, 1 << 16


def file_fingerprint(path: Path) -> str:
    """sha256 (hex) of the length and of the content; above 16 MiB of 64 blocks of 64 KiB, first and last included."""
    with path.open("rb") as file:

        def read(wanted: int, offset: int) -> bytes:
            file.seek(offset)
            return file.read(wanted)

        return content_fingerprint(path.stat().st_size, read)


def content_fingerprint(size: int, read: Callable[[int, int], bytes]) -> str:
    """`file_fingerprint` of `size` bytes wherever they lie; `read` gives (wanted bytes, from this byte on)."""
    digest = hashlib.sha256(size.to_bytes(8, "little"))
    if size < WHOLE_BELOW:
        digest.update(read(size, 0))
    else:
        for block in range(BLOCKS):
            digest.update(read(BLOCK, (size - BLOCK) * block // (BLOCKS - 1)))
    return digest.hexdigest()


def manifest_fingerprint(manifest: dict[str, Any]) -> str:
    """sha256 (hex) of a JSON-able description; the order of its keys does not matter."""
    return hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()

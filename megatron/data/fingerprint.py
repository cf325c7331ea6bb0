"""A cheap hash that changes when a file does: whole for small files, evenly spread blocks of large ones."""

import hashlib
import json
from pathlib import Path
from typing import Any

WHOLE_BELOW = 1 << 24
BLOCKS, BLOCK = 64, 1 << 16


def file_fingerprint(path: Path) -> str:
    """sha256 (hex) of the length and of the content; above 16 MiB of 64 blocks of 64 KiB, first and last included."""
    size = path.stat().st_size
    digest = hashlib.sha256(size.to_bytes(8, "little"))
    with path.open("rb") as file:
        if size < WHOLE_BELOW:
            digest.update(file.read())
        else:
            for block in range(BLOCKS):
                file.seek((size - BLOCK) * block // (BLOCKS - 1))
                digest.update(file.read(BLOCK))
    return digest.hexdigest()


def manifest_fingerprint(manifest: dict[str, Any]) -> str:
    """sha256 (hex) of a JSON-able description; the order of its keys does not matter."""
    return hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()

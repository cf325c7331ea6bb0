"""Is there room for a checkpoint? Asked before the first step and before each save, not found out in the middle."""

import os
from pathlib import Path
from typing import TYPE_CHECKING

from megatron.errors import CheckpointError

if TYPE_CHECKING:  # it needs torch, and free space is asked for without
    from megatron.checkpointing.together import Together

_EXTRA_BYTES = 1 << 20  # headers, state.json, manifest
_EXTRA_SHARE = 0.01


def check_space(save: Path, own_bytes: int, together: "Together") -> None:
    """Compare what all ranks will write with what is free below `save`; CheckpointError on every rank if it is less."""
    needed = sum(together.gather(own_bytes))
    needed += int(needed * _EXTRA_SHARE) + _EXTRA_BYTES

    def check() -> None:
        free = free_bytes(save)
        if free < needed:
            raise CheckpointError(
                f"a checkpoint needs {needed:,} bytes and {save} has {free:,} free. Free {needed - free:,} bytes, "
                "or choose another folder with --set save=FOLDER"
            )

    together.run(check, only=0)


def free_bytes(folder: Path) -> int:
    """Bytes that this user may still write where `folder` is or will be."""
    while not folder.exists():
        folder = folder.parent
    figures = os.statvfs(folder)
    return figures.f_bavail * figures.f_frsize

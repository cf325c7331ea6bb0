"""Which checkpoints stay. Only folders that a scan proves to be ours, whole and unmixed are ever deleted."""

import os
import shutil
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from megatron.checkpointing.durable import sync_folder
from megatron.checkpointing.folders import MANIFEST, leftovers, removal_folder, step_folders, step_of
from megatron.checkpointing.manifest import check_manifest, read_manifest
from megatron.errors import CheckpointError


@dataclass(frozen=True)
class Retention:
    """last: how many of the newest stay, None = all. every: steps that divide by it stay. steps: these stay too."""

    last: int | None = None
    every: int | None = None
    steps: Collection[int] = ()

    def keeps(self, step: int) -> bool:
        """True for a step that stays however old it is."""
        return step in self.steps or (self.every is not None and step % self.every == 0)


def remove_old(save: Path, retention: Retention) -> list[Path]:
    """Delete what `retention` gives up, and return it.

    A folder counts, and may go, when its manifest and all sizes are right, it holds nothing that the manifest does not
    list, and it is no link. Damaged ones and look-alikes stay where they are and count for nothing.
    """
    if retention.last is None:
        return []
    ours = [folder for folder in step_folders(save) if _is_ours(folder)]
    removed = []
    for folder in ours[retention.last :]:
        step = step_of(folder)
        assert step is not None, "step_folders returns step folders"
        if not retention.keeps(step):
            _remove(folder)
            removed.append(folder)
    return removed


def remove_leftovers(save: Path) -> list[Path]:
    """Delete unfinished saves and unfinished deletions of earlier runs. Only the run that holds the lock may do so."""
    found = leftovers(save)
    for folder in found:
        shutil.rmtree(folder, ignore_errors=True)
    return found


def _is_ours(folder: Path) -> bool:
    if folder.is_symlink():
        return False
    try:
        check_manifest(folder, hashes=False)
        listed = {*read_manifest(folder), MANIFEST}
    except CheckpointError:
        return False
    return {entry.name for entry in folder.iterdir()} == listed


def _remove(folder: Path) -> None:
    """First the name goes, then the files: a kill in between leaves nothing that looks like a checkpoint."""
    doomed = removal_folder(folder)
    if doomed.exists():
        shutil.rmtree(doomed)
    os.replace(folder, doomed)
    sync_folder(folder.parent)
    shutil.rmtree(doomed)

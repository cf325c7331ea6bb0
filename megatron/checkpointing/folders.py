"""Names inside a `save` folder: `global_stepN`, what is on the way to or from it, and the `latest` hint.

One checkpoint folder holds `manifest.json` (written last: sizes and SHA-256 of all others), `state.json`, and
safetensors files by rank: `weights-*` (model), `optimizer-*` (masters and moments), `rng-*` (generator states).
"""

import os
import re
from pathlib import Path

from megatron.errors import CheckpointError

MANIFEST = "manifest.json"
STATE = "state.json"
LATEST = "latest"
_STEP_FOLDER = re.compile(r"global_step(\d+)")
_WRITING, _REPLACED, _DELETING = "writing", "replaced", "deleting"
_ON_THE_WAY = re.compile(rf"\.global_step(\d+)\.({_WRITING}|{_REPLACED}|{_DELETING})")


def step_folder(save: Path, iteration: int) -> Path:
    return save / f"global_step{iteration}"


def temporary_folder(final: Path) -> Path:
    """Where a checkpoint is written before it has its name."""
    return final.with_name(f".{final.name}.{_WRITING}")


def replaced_folder(final: Path) -> Path:
    """Where a whole checkpoint of the same step waits until the new one has the name."""
    return final.with_name(f".{final.name}.{_REPLACED}")


def removal_folder(final: Path) -> Path:
    """Where a checkpoint goes to be deleted."""
    return final.with_name(f".{final.name}.{_DELETING}")


def leftovers(save: Path) -> list[Path]:
    """Folders of saves and deletions that never finished; a replaced checkpoint counts once its successor is there."""
    found = []
    for entry in sorted(save.iterdir()) if save.is_dir() else []:
        match = _ON_THE_WAY.fullmatch(entry.name)
        if match is None or entry.is_symlink() or not entry.is_dir():
            continue
        if match.group(2) != _REPLACED or step_folder(save, int(match.group(1))).exists():
            found.append(entry)
    return found


def set_aside(folder: Path, why: str) -> Path:
    """Rename a checkpoint to `global_stepN.why`, which no scan takes for one; returns the new path."""
    target, number = folder.with_name(f"{folder.name}.{why}"), 1
    while target.exists():
        number += 1
        target = folder.with_name(f"{folder.name}.{why}-{number}")
    os.replace(folder, target)
    return target


def step_of(folder: Path) -> int | None:
    """The iteration in the folder's name, or None when it is not one of our names."""
    match = _STEP_FOLDER.fullmatch(folder.name)
    return int(match.group(1)) if match else None


def step_folders(save: Path) -> list[Path]:
    """Folders named as our checkpoints under `save`, newest first by step, whatever their state."""
    if not save.is_dir():
        return []
    named = [(step, entry) for entry in save.iterdir() if (step := step_of(entry)) is not None and entry.is_dir()]
    return [entry for _, entry in sorted(named, key=lambda pair: pair[0], reverse=True)]


def foreign_checkpoint(save: Path, load: str | None, auto_resume: bool) -> Path | None:
    """The newest checkpoint in `save` that a run with these settings would neither continue nor spare."""
    same = auto_resume if load is None else Path(load).resolve() == save.resolve()
    return None if same else next(iter(step_folders(save)), None)


def restore_replaced(save: Path) -> list[Path]:
    """Give checkpoints their name back that were about to be replaced when a save of the same step was killed."""
    restored = []
    for entry in sorted(save.iterdir()) if save.is_dir() else []:
        match = _ON_THE_WAY.fullmatch(entry.name)
        if match is None or match.group(2) != _REPLACED:
            continue
        final = step_folder(save, int(match.group(1)))
        if not final.exists():
            os.replace(entry, final)
            restored.append(final)
    return restored


def weights_file(pp_rank: int, tp_rank: int, data_rank: int) -> str:
    """Data rank 0 holds all weights of its stage; under ZeRO-3 each data rank has a part of them."""
    part = f"-dp{data_rank:04d}" if data_rank else ""
    return f"weights-pp{pp_rank:03d}-tp{tp_rank:03d}{part}.safetensors"


def optimizer_file(pp_rank: int, tp_rank: int, data_rank: int) -> str:
    return f"optimizer-pp{pp_rank:03d}-tp{tp_rank:03d}-dp{data_rank:04d}.safetensors"


def rng_file(rank: int) -> str:
    return f"rng-rank{rank:05d}.safetensors"


def check_writable(save: Path) -> None:
    """Create `save` if need be and prove that a file can be written there, before any work is done.

    Raises CheckpointError with the operating system's reason.
    """
    probe = save / ".write-test"
    try:
        save.mkdir(parents=True, exist_ok=True)
        probe.write_bytes(b"x")
        probe.unlink()
    except OSError as error:
        raise CheckpointError(
            f"Cannot write checkpoints to save={str(save)!r}: {error.strerror or error}. "
            "Choose another folder with --set save=FOLDER, or change its permissions."
        ) from error

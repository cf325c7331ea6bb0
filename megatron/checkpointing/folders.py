"""Names inside a `save` folder: `global_stepN`, the files of one checkpoint, and the `latest` hint.

One checkpoint folder holds `manifest.json` (written last: sizes and SHA-256 of all others), `state.json`, and
safetensors files by rank: `weights-*` (model), `optimizer-*` (masters and moments), `rng-*` (generator states).
"""

import re
from pathlib import Path

from megatron.errors import CheckpointError

MANIFEST = "manifest.json"
STATE = "state.json"
LATEST = "latest"
_STEP_FOLDER = re.compile(r"global_step(\d+)")


def step_folder(save: Path, iteration: int) -> Path:
    return save / f"global_step{iteration}"


def step_of(folder: Path) -> int | None:
    """The iteration in the folder's name, or None when it is not one of our names."""
    match = _STEP_FOLDER.fullmatch(folder.name)
    return int(match.group(1)) if match else None


def step_folders(save: Path) -> list[Path]:
    """Our checkpoint folders under `save`, newest first, whatever their state."""
    if not save.is_dir():
        return []
    named = [(step_of(entry), entry) for entry in save.iterdir() if entry.is_dir()]
    return [entry for step, entry in sorted(named, key=lambda pair: pair[0] or 0, reverse=True) if step is not None]


def weights_file(pp_rank: int, tp_rank: int) -> str:
    return f"weights-pp{pp_rank:03d}-tp{tp_rank:03d}.safetensors"


def optimizer_file(pp_rank: int, tp_rank: int, dp_rank: int) -> str:
    return f"optimizer-pp{pp_rank:03d}-tp{tp_rank:03d}-dp{dp_rank:04d}.safetensors"


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

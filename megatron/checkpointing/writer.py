"""Write a checkpoint: every rank puts its files into a temporary folder, which is renamed when all are whole.

A kill at any moment leaves either the old checkpoints or the new one; `latest` is only a hint for people.
"""

import contextlib
import os
import shutil
from pathlib import Path
from typing import Any

from megatron.checkpointing.durable import sync_folder, write_file, write_json
from megatron.checkpointing.folders import LATEST, STATE, replaced_folder, set_aside, step_folder, temporary_folder
from megatron.checkpointing.manifest import check_manifest, describe_file, write_manifest
from megatron.checkpointing.space import check_space
from megatron.checkpointing.tensor_file import TensorFile, write_tensor_file
from megatron.checkpointing.together import Together
from megatron.checkpointing.waiting import wait_until
from megatron.errors import CheckpointError


def write_checkpoint(save: Path, state: dict[str, Any], files: list[TensorFile], together: Together) -> Path:
    """Write `global_stepN` under `save` from all ranks together and return it.

    state: JSON-able content of state.json; must hold "iteration". files: those of this rank (see snapshot.py).
    Raises CheckpointError on every rank when any rank could not write; older checkpoints stay untouched, and the
    unfinished folder is removed.
    """
    final = step_folder(save, int(state["iteration"]))
    temporary = temporary_folder(final)
    check_space(save, sum(file.size() for file in files), together)
    try:
        together.run(lambda: _begin(temporary), only=0)
        entries: dict[str, Any] = {}

        def write_own_files() -> None:
            temporary.mkdir(exist_ok=True)  # another host may not see rank 0's new folder yet
            entries.update({file.name: write_tensor_file(temporary, file) for file in files})

        together.run(write_own_files)
        merged = {name: entry for part in together.gather(entries) for name, entry in part.items()}
        together.run(lambda: _publish(temporary, final, state, merged), only=0)
    except CheckpointError as error:
        if together.rank == 0:
            shutil.rmtree(temporary, ignore_errors=True)
        raise CheckpointError(
            f"The checkpoint of step {state['iteration']} could not be written ({error}). Earlier checkpoints are "
            "untouched; free space or choose another folder with --set save=FOLDER, then start again: the run resumes."
        ) from error
    return final


def _begin(temporary: Path) -> None:
    if temporary.exists():
        shutil.rmtree(temporary)
    temporary.mkdir(parents=True)


def _publish(temporary: Path, final: Path, state: dict[str, Any], entries: dict[str, Any]) -> None:
    """The manifest, then the name: from here on the scan finds it."""
    save = final.parent
    wait_until(lambda: all((temporary / name).is_file() for name in entries), f"the files of all ranks in {temporary}")
    write_json(temporary / STATE, state)
    entries[STATE] = describe_file(temporary / STATE)
    write_manifest(temporary, dict(sorted(entries.items())))
    check_manifest(temporary, hashes=False)
    before = replaced_folder(final)
    if final.exists():
        _make_way(final, before)
    os.replace(temporary, final)
    sync_folder(save)
    if before.exists():
        shutil.rmtree(before)
    hint = save / (LATEST + ".tmp")
    with contextlib.suppress(OSError):  # people read it, programs do not
        write_file(hint, [f"{final.name}\n".encode()])
        os.replace(hint, save / LATEST)


def _make_way(final: Path, before: Path) -> None:
    """A whole checkpoint of the same step stays loadable under another name until the new one has the name."""
    try:
        check_manifest(final, hashes=False)
    except CheckpointError:
        set_aside(final, "damaged")
        return
    if before.exists():
        shutil.rmtree(before)
    os.replace(final, before)

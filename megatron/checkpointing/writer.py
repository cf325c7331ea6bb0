"""Save a checkpoint: every rank writes its files into a temporary folder, which is renamed when all are whole.

A kill at any moment leaves either the old checkpoints or the new one; `latest` is only a hint for people.
"""

import json
import os
import shutil
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from safetensors.torch import save_file
from torch import Tensor

from megatron.checkpointing.folders import LATEST, STATE, optimizer_file, rng_file, step_folder, weights_file
from megatron.checkpointing.manifest import check_manifest, describe_file, sync_file, sync_folder, write_json
from megatron.checkpointing.manifest import write_manifest as write_manifest_file
from megatron.checkpointing.optimizer_state import fragments
from megatron.errors import CheckpointError
from megatron.mpu.parallel_state import ParallelState
from megatron.mpu.shard import shard_of


def save_checkpoint(
    save: Path,
    state: dict[str, Any],
    parameters: list[torch.nn.Parameter],
    optimizer: Any,
    rng: dict[str, Tensor],
    parallel: ParallelState,
    *,
    masters: bool,
) -> Path:
    """Write `global_stepN` under `save` from all ranks together and return it.

    state: JSON-able content of state.json; must hold "iteration".
    parameters: this rank's parameters, each with `.shard`; optimizer: DeepSpeed's ZeRO-1/bf16 optimizer or None.
    rng: generator states of this rank (uint8 tensors).
    Raises CheckpointError on every rank when any rank could not write; older checkpoints stay untouched.
    """
    final = step_folder(save, int(state["iteration"]))
    temporary = save / f".{final.name}.writing"
    _together(parallel, lambda: _begin(temporary) if parallel.rank == 0 else None)
    files: dict[str, Any] = {}

    def write_own_files() -> None:
        for name, tensors, pieces in _own_files(parameters, optimizer, rng, parallel, masters):
            path = temporary / name
            save_file(tensors, path, metadata={"pieces": json.dumps(pieces)})
            sync_file(path)
            files[name] = describe_file(path)

    _together(parallel, write_own_files)
    all_files = _gather(files, parallel)

    def publish() -> None:
        write_json(temporary / STATE, state)
        merged = {name: entry for part in all_files for name, entry in part.items()}
        merged[STATE] = describe_file(temporary / STATE)
        write_manifest_file(temporary, dict(sorted(merged.items())))
        check_manifest(temporary, hashes=False)
        if final.exists():
            shutil.rmtree(final)
        os.replace(temporary, final)
        sync_folder(save)
        hint = save / (LATEST + ".tmp")
        hint.write_text(final.name + "\n", encoding="utf-8")
        os.replace(hint, save / LATEST)

    _together(parallel, lambda: publish() if parallel.rank == 0 else None)
    return final


def _begin(temporary: Path) -> None:
    if temporary.exists():
        shutil.rmtree(temporary)
    temporary.mkdir(parents=True)


def _own_files(
    parameters: list[torch.nn.Parameter],
    optimizer: Any,
    rng: dict[str, Tensor],
    parallel: ParallelState,
    masters: bool,
) -> list[tuple[str, dict[str, Tensor], dict[str, dict[str, Any]]]]:
    """(file name, tensors, where each lies in its global tensor) of the files this rank owes."""
    files = []
    owned = [parameter for parameter in parameters if _owns(parameter, parallel)]
    if parallel.dp_rank == 0:
        weights = {shard_of(p).name: p.detach().contiguous().cpu() for p in owned}
        pieces = {shard_of(p).name: _piece(p, "weight", 0, parallel) for p in owned}
        files.append((weights_file(parallel.pp_rank, parallel.tp.rank), weights, pieces))
    if optimizer is not None:
        tensors: dict[str, Tensor] = {}
        pieces = {}
        for fragment in fragments(optimizer, owned, masters=masters):
            for kind, value in fragment.tensors.items():
                key = f"{kind}/{shard_of(fragment.parameter).name}"
                tensors[key] = value.detach().clone().cpu()
                pieces[key] = _piece(fragment.parameter, kind, fragment.start, parallel)
        files.append((optimizer_file(parallel.pp_rank, parallel.tp.rank, parallel.dp_rank), tensors, pieces))
    files.append((rng_file(parallel.rank), rng, {}))
    return files


def _owns(parameter: torch.nn.Parameter, parallel: ParallelState) -> bool:
    """Each value is written once: replicated tensors by tensor rank 0, tied copies by their first stage."""
    replicated_copy = shard_of(parameter).dim is None and parallel.tp.rank > 0
    tied_copy = getattr(parameter, "ds_pipe_replicated", False)
    return not (replicated_copy or tied_copy)


def _piece(parameter: torch.nn.Parameter, kind: str, flat_start: int, parallel: ParallelState) -> dict[str, Any]:
    shard = shard_of(parameter)
    size = 0 if shard.dim is None else parameter.shape[shard.dim]
    return {
        "name": shard.name,
        "kind": kind,
        "shape": list(shard.shape),
        "dim": shard.dim,
        "dim_start": parallel.tp.rank * size,
        "dim_size": size,
        "flat_start": flat_start,
    }


def _gather(own: Any, parallel: ParallelState) -> list[Any]:
    if parallel.world_size == 1:
        return [own]
    gathered: list[Any] = [None] * parallel.world_size
    dist.all_gather_object(gathered, own)
    return gathered


def _together(parallel: ParallelState, action: Any) -> None:
    """Run `action` on every rank; if any failed, all raise the first failure (nobody waits for a dead peer)."""
    problem = None
    try:
        action()
    except OSError as error:
        free = shutil.disk_usage(error.filename).free if error.filename and os.path.exists(error.filename) else None
        room = f"; {free} bytes are free there" if free is not None else ""
        problem = f"rank {parallel.rank}: {error}{room}"
    except Exception as error:
        problem = f"rank {parallel.rank}: {type(error).__name__}: {error}"
    problems = [text for text in _gather(problem, parallel) if text]
    if problems:
        raise CheckpointError(
            f"The checkpoint could not be written ({problems[0]}). Earlier checkpoints are untouched; "
            "free space or choose another folder with --set save=FOLDER, then start again: the run resumes."
        )

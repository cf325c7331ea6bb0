"""Write a checkpoint at step 0 out of given weights, a few at a time: for models that come from elsewhere."""

import os
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from torch import Tensor

from megatron.checkpointing.durable import sync_folder, write_json
from megatron.checkpointing.folders import STATE, step_folder, temporary_folder
from megatron.checkpointing.manifest import describe_file, write_manifest
from megatron.checkpointing.tensor_file import TensorFile, write_tensor_file
from megatron.errors import CheckpointError

FILE_BYTES = 2 * 10**9


def write_from_tensors(
    save: Path, tensors: Iterable[tuple[str, Tensor]], state: dict[str, Any], file_bytes: int = FILE_BYTES
) -> Path:
    """Write `global_step0` under `save` and return it; it appears under its name only when whole.

    tensors: (global name, full tensor) in any order, read one by one; at most `file_bytes` of them are held.
    state: what state.json needs beyond the position, which is that of a run that has not begun:
    padded_vocab_size, tokenizer_fingerprint, precision, settings.
    Raises CheckpointError when `save` already holds a checkpoint of step 0.
    """
    final = step_folder(save, 0)
    if final.exists():
        raise CheckpointError(f"{final} exists already. Choose another folder, or remove it first.")
    temporary = temporary_folder(final)
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    files = dict(_write_weights(temporary, tensors, file_bytes))
    beginning = {
        "iteration": 0,
        "consumed_samples": 0,
        "skipped": 0,
        "optimizer_steps": 0,
        "data_fingerprint": None,
        "layout": {"pipeline": 1, "tensor": 1, "data": 1},
    }
    write_json(temporary / STATE, beginning | state)
    files[STATE] = describe_file(temporary / STATE)
    write_manifest(temporary, dict(sorted(files.items())))
    os.replace(temporary, final)
    sync_folder(save)
    return final


def _write_weights(
    folder: Path, tensors: Iterable[tuple[str, Tensor]], file_bytes: int
) -> Iterable[tuple[str, dict[str, Any]]]:
    held: dict[str, Tensor] = {}
    size, number = 0, 0
    for name, tensor in tensors:
        if held and size + tensor.nbytes > file_bytes:
            yield _write_file(folder, number, held)
            held, size, number = {}, 0, number + 1
        held[name] = tensor.contiguous()
        size += tensor.nbytes
    yield _write_file(folder, number, held)


def _write_file(folder: Path, number: int, tensors: dict[str, Tensor]) -> tuple[str, dict[str, Any]]:
    name_of_file = f"weights-part{number:05d}.safetensors"
    pieces = {
        name: {
            "name": name,
            "kind": "weight",
            "shape": list(tensor.shape),
            "dim": None,
            "dim_start": 0,
            "dim_size": 0,
            "flat_start": 0,
        }
        for name, tensor in tensors.items()
    }
    return name_of_file, write_tensor_file(folder, TensorFile(name_of_file, tensors, pieces))

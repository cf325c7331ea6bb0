"""Checkpoints of a few tensors, written by the real writer without a model, and naive versions of a save."""

import contextlib
import json
import os
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from megatron.checkpointing.folders import optimizer_file, rng_file, weights_file
from megatron.checkpointing.reader import CheckpointReader, find_checkpoint
from megatron.checkpointing.retention import Retention
from megatron.checkpointing.saver import CheckpointSaver
from megatron.checkpointing.tensor_file import TensorFile
from megatron.checkpointing.together import Together
from megatron.checkpointing.writer import write_checkpoint
from megatron.errors import CheckpointError
from megatron.mpu.parallel_state import ParallelState

NAMES = ("layers.0.mlp.dense_h_to_4h.weight", "final_norm.weight")


def files_of(iteration: int, rank: int = 0) -> list[TensorFile]:
    """Weights, moments and a random state, all functions of the iteration. rank: of data-parallel ones."""
    values = _values(iteration)
    files = [TensorFile(rng_file(rank), {"torch": torch.full((16,), iteration % 256, dtype=torch.uint8)})]
    if rank == 0:
        files.append(TensorFile(weights_file(0, 0, 0), values, {name: _piece(name, "weight") for name in NAMES}))
        moments = {f"exp_avg/{name}": value for name, value in values.items()}
        pieces = {f"exp_avg/{name}": _piece(name, "exp_avg") for name in NAMES}
        files.append(TensorFile(optimizer_file(0, 0, 0), moments, pieces))
    return files


def save_small(save: Path, iteration: int, together: Together | None = None) -> Path:
    together = together or Together()
    return write_checkpoint(save, {"iteration": iteration}, files_of(iteration, together.rank), together)


ALL = Retention()


def saver_of(save: Path, retention: Retention = ALL) -> CheckpointSaver:
    return CheckpointSaver(save, ParallelState(), retention)


def loaded_step(save: Path) -> int | None:
    """The step that a load takes, after comparing every tensor with what that step holds; None: nothing loadable."""
    try:
        reader = CheckpointReader(find_checkpoint(save))
    except CheckpointError:
        return None
    values = _values(reader.iteration)
    for name in NAMES:
        assert torch.equal(reader.weight(name), values[name])
        assert torch.equal(reader.optimizer_tensor(name, "exp_avg"), values[name])
    return reader.iteration


def naive_save(save: Path, iteration: int) -> None:
    """Files into their final place, then `latest`: what most trainers do."""
    folder = save / f"global_step{iteration}"
    if not folder.exists():
        os.mkdir(folder)
    for file in files_of(iteration):
        _write(folder / file.name, b"".join(bytes(part) for part in file.parts()))
    _write(folder / "state.json", json.dumps({"iteration": iteration}).encode())
    _write(save / "latest", f"global_step{iteration}".encode())


def naive_step(save: Path) -> int | None:
    """What the naive version loads: the folder named by `latest`; None when that raises."""
    with contextlib.suppress(Exception):
        folder = save / (save / "latest").read_text()
        values = load_file(folder / weights_file(0, 0, 0))
        load_file(folder / optimizer_file(0, 0, 0))
        iteration = int(json.loads((folder / "state.json").read_text())["iteration"])
        if all(torch.equal(values[name], value) for name, value in _values(iteration).items()):
            return iteration
    return None


def _write(path: Path, content: bytes) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.write(descriptor, content)
    os.close(descriptor)


def _values(iteration: int) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(iteration)
    return {NAMES[0]: torch.randn(40, 24, generator=generator), NAMES[1]: torch.randn(24, generator=generator)}


def _piece(name: str, kind: str) -> dict[str, Any]:
    shape = list(_values(0)[name].shape)
    return {"name": name, "kind": kind, "shape": shape, "dim": None, "dim_start": 0, "dim_size": 0, "flat_start": 0}

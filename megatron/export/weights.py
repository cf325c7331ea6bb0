"""Write a checkpoint's tensors as safetensors shards with an index; one shard in memory at a time."""

import json
from collections.abc import Callable, Iterable
from pathlib import Path

import torch
from safetensors.torch import save_file

from megatron.checkpointing.reader import CheckpointReader
from megatron.export.tensor_map import TensorMap

SHARD_BYTES = 2 * 10**9


def write_weights(
    reader: CheckpointReader,
    folder: Path,
    tensor_map: TensorMap,
    dtype: torch.dtype,
    shard_bytes: int = SHARD_BYTES,
    change: Callable[[str, torch.Tensor], torch.Tensor] = lambda name, value: value,
) -> list[str]:
    """Write every tensor of the checkpoint, converted to dtype; returns the names of the files written.

    change: what becomes of a tensor, by its name here, before it is written.
    """
    size = torch.empty((), dtype=dtype).element_size()
    plan = plan_shards(((name, size * torch.Size(reader.shape(name)).numel()) for name in reader.names()), shard_bytes)
    files = ["model.safetensors"]
    if len(plan) > 1:
        files = [f"model-{number:05d}-of-{len(plan):05d}.safetensors" for number in range(1, len(plan) + 1)]
    where: dict[str, str] = {}
    total = 0
    for file, names in zip(files, plan, strict=True):
        tensors = {
            theirs: part.to(dtype).contiguous()
            for name in names
            for theirs, part in tensor_map.split(name, change(name, reader.weight(name))).items()
        }
        save_file(tensors, folder / file, metadata={"format": "pt"})
        (folder / file).chmod(0o644)  # safetensors writes files that only their owner can read
        where |= dict.fromkeys(tensors, file)
        total += sum(tensor.numel() * size for tensor in tensors.values())
    if len(files) == 1:
        return files
    index = {"metadata": {"total_size": total}, "weight_map": dict(sorted(where.items()))}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")
    return [*files, "model.safetensors.index.json"]


def plan_shards(sizes: Iterable[tuple[str, int]], limit: int) -> list[list[str]]:
    """Names in order, cut into groups of at most `limit` bytes (a larger tensor stands alone)."""
    plan: list[list[str]] = []
    room = -1
    for name, size in sizes:
        if size > room:
            plan.append([])
            room = limit
        plan[-1].append(name)
        room -= size
    return plan

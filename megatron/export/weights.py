"""Write a checkpoint's tensors as safetensors shards with an index; one tensor in memory at a time."""

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import torch
from torch import Tensor

from megatron.checkpointing.reader import CheckpointReader
from megatron.errors import CheckpointError
from megatron.export.tensor_map import TensorMap

SHARD_BYTES = 2 * 10**9
_SAFETENSORS_NAMES = {torch.float32: "F32", torch.bfloat16: "BF16", torch.float16: "F16"}


@dataclass(frozen=True)
class _Planned:
    """A tensor of ours, and the names and shapes of what becomes of it."""

    name: str
    parts: dict[str, tuple[int, ...]]

    def bytes(self, size: int) -> int:
        return size * sum(torch.Size(shape).numel() for shape in self.parts.values())


def write_weights(
    reader: CheckpointReader,
    folder: Path,
    tensor_map: TensorMap,
    dtype: torch.dtype,
    shard_bytes: int = SHARD_BYTES,
    change: Callable[[str, Tensor], Tensor] = lambda name, value: value,
) -> list[str]:
    """Write every tensor of the checkpoint, converted to dtype; returns the names of the files written.

    change: what becomes of a tensor, by its name here, before it is written; it keeps the shape.
    Files depend on the weights alone, not on the layout that saved them.
    """
    size = dtype.itemsize
    planned = [_Planned(name, tensor_map.shapes(name, reader.shape(name))) for name in reader.names()]
    by_name = {entry.name: entry for entry in planned}
    plan = plan_shards(((entry.name, entry.bytes(size)) for entry in planned), shard_bytes)
    files = ["model.safetensors"]
    if len(plan) > 1:
        files = [f"model-{number:05d}-of-{len(plan):05d}.safetensors" for number in range(1, len(plan) + 1)]
    where: dict[str, str] = {}
    for file, names in zip(files, plan, strict=True):
        with open(folder / file, "wb") as opened:
            _write_header(opened, [by_name[name] for name in names], dtype)
            for name in names:
                # Not kept in a variable, which would outlive the turn: the next tensor comes when this one is gone.
                _write_parts(opened, by_name[name], tensor_map.split(name, change(name, reader.weight(name))), dtype)
        where |= {theirs: file for name in names for theirs in by_name[name].parts}
    if len(files) == 1:
        return files
    total = sum(entry.bytes(size) for entry in planned)
    index = {"metadata": {"total_size": total}, "weight_map": dict(sorted(where.items()))}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")
    return [*files, "model.safetensors.index.json"]


def _write_header(file: BinaryIO, entries: list[_Planned], dtype: torch.dtype) -> None:
    """Name, type, shape and place of each tensor (https://huggingface.co/docs/safetensors, "Format")."""
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    place = 0
    for entry in entries:
        for theirs, shape in entry.parts.items():
            end = place + dtype.itemsize * torch.Size(shape).numel()
            header[theirs] = {
                "dtype": _SAFETENSORS_NAMES[dtype],
                "shape": list(shape),
                "data_offsets": [place, end],
            }
            place = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # tensors begin at a multiple of 8 bytes
    file.write(len(text).to_bytes(8, "little") + text)


def _write_parts(file: BinaryIO, entry: _Planned, parts: dict[str, Tensor], dtype: torch.dtype) -> None:
    for theirs, shape in entry.parts.items():
        if tuple(parts[theirs].shape) != shape:
            raise CheckpointError(f"{entry.name} is {list(parts[theirs].shape)} where its header says {list(shape)}.")
        file.write(_bytes_of(parts[theirs].to(dtype)))


def _bytes_of(tensor: Tensor) -> memoryview:
    return tensor.contiguous().flatten().view(torch.uint8).numpy().data


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

"""Writing a safetensors file straight from the tensors' memory, with its hashes, in one pass.

Format: 8 bytes little-endian length, a JSON header padded with spaces to a multiple of 8, then the tensors' bytes
(https://github.com/huggingface/safetensors). `safetensors` reads it back.
"""

import json
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from megatron.checkpointing.durable import write_file
from megatron.checkpointing.manifest import describe_parts

_NAMES = {
    torch.float64: "F64", torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16",
    torch.int64: "I64", torch.int32: "I32", torch.int16: "I16", torch.int8: "I8",
    torch.uint8: "U8", torch.bool: "BOOL",
}  # fmt: skip


@dataclass(frozen=True)
class TensorFile:
    """What one file is to hold. pieces: for each tensor, where it lies in its global tensor (see reader.py)."""

    name: str
    tensors: Mapping[str, Tensor]
    pieces: Mapping[str, dict[str, Any]] = field(default_factory=dict)

    def parts(self) -> list[bytes | memoryview]:
        """The bytes of the file: header, then each tensor. CPU tensors are not copied."""
        order = sorted(self.tensors, key=lambda key: (-self.tensors[key].element_size(), key))
        header: dict[str, Any] = {"__metadata__": {"pieces": json.dumps(self.pieces)}}
        data: list[bytes | memoryview] = []
        start = 0
        for key in order:
            value = self.tensors[key].detach().contiguous().cpu()
            end = start + value.numel() * value.element_size()
            header[key] = {"dtype": _NAMES[value.dtype], "shape": list(value.shape), "data_offsets": [start, end]}
            if value.numel():
                data.append(value.reshape(-1).view(torch.uint8).numpy().data)
            start = end
        text = json.dumps(header, separators=(",", ":")).encode()
        text += b" " * (-len(text) % 8)
        return [len(text).to_bytes(8, "little"), text, *data]

    def size(self) -> int:
        """Bytes of the tensors."""
        return sum(value.numel() * value.element_size() for value in self.tensors.values())


def write_tensor_file(folder: Path, file: TensorFile) -> dict[str, Any]:
    """Write and sync the file; return its manifest entry, of the bytes in memory. OSError when it cannot be written."""
    parts = file.parts()
    entry: dict[str, Any] = {}
    hashing = threading.Thread(target=lambda: entry.update(describe_parts(parts)))
    hashing.start()
    try:
        write_file(folder / file.name, parts)
    finally:
        hashing.join()
    return entry

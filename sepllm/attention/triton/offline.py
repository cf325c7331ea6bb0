"""Compiles every kernel for GPUs that need not be there; tells registers, spills and shared memory of each.

python -m sepllm.attention.triton.offline [sm ...]     (default: 80 90)
"""

import re
import subprocess
import sys
import tempfile
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import triton
from triton import knobs
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from sepllm.attention.triton.backward_keys import backward_keys_kernel
from sepllm.attention.triton.backward_query import backward_query_kernel
from sepllm.attention.triton.forward import forward_kernel
from sepllm.attention.triton.tiles import KERNELS, Tile, block_dim, tile_for

_FUNCTIONS = {
    "forward": forward_kernel,
    "backward_query": backward_query_kernel,
    "backward_near": backward_keys_kernel,
    "backward_far": backward_keys_kernel,
}
_FORMS: dict[str, dict[str, Any]] = {
    "plain": {},
    "ends": {"has_ends": True},
    "alibi": {"alibi": True},
    "both": {"has_ends": True, "alibi": True},
}
_BYTES = {"bf16": 2, "fp16": 2, "fp32": 4}
_MATRICES = ("query", "key", "value", "out", "grad_out", "grad_query", "grad_key", "grad_value")
_NUMBERS = ("lse", "delta", "slopes", "places")
_TABLES = ("before", "packed", "start", "near_end", "far_end")
_UNEVEN = ("seq", "queries", "window", "group", "heads", "kv_heads", "places_stride_b")  # not known to divide by 16


@dataclass(frozen=True)
class Resources:
    """What one compiled kernel takes: registers per thread, bytes spilled per thread, shared memory in bytes."""

    registers: int
    spilled: int
    shared: int


def resources(
    kernel: str,
    head_dim: int,
    capability: int,
    *,
    dtype: str = "bf16",
    tile: Tile | None = None,
    has_ends: bool = False,
    alibi: bool = False,
    ones: Collection[str] = (),
) -> Resources:
    """Compile one of KERNELS for a capability such as 80 or 90, with the tile of tiles.py unless one is given.

    ones: integer arguments that are 1, which Triton compiles as constants.
    """
    tile = tile or tile_for(kernel, head_dim, _BYTES[dtype])
    function = _FUNCTIONS[kernel]
    constants = {
        "DIM": head_dim,
        "BLOCK_D": block_dim(head_dim),
        "BLOCK_Q": tile.queries,
        "BLOCK_K": tile.keys,
        "HAS_ENDS": has_ends,
        "ALIBI": alibi,
        "PRECISION": "ieee",
    }
    if function is backward_keys_kernel:
        constants["FAR"] = kernel == "backward_far"
    constants |= {name: 1 for name in function.arg_names if name in ones}
    signature = {name: "constexpr" if name in constants else _type(name, dtype) for name in function.arg_names}
    divisible: Any = {
        (place,): [["tt.divisibility", 16]]
        for place, name in enumerate(function.arg_names)
        if signature[name].startswith("*") or (signature[name] == "i32" and name not in _UNEVEN)
    }
    compiled = triton.compile(
        ASTSource(function, signature, constexprs=constants, attrs=divisible),
        target=GPUTarget("cuda", capability, 32),
        options={"num_warps": tile.warps, "num_stages": tile.stages, "enable_fp_fusion": True},
    )
    registers, spilled = _inspect(compiled.asm["cubin"])
    return Resources(registers, spilled, compiled.metadata.shared)


def _type(name: str, dtype: str) -> str:
    if name in _MATRICES:
        return f"*{dtype}"
    if name in _NUMBERS:
        return "*fp32"
    if name in _TABLES:
        return "*i32"
    return "fp32" if name.endswith("scale") else "i32"


def _inspect(cubin: bytes) -> tuple[int, int]:
    """Registers per thread and bytes of its stack; these kernels have nothing on the stack but spilled registers."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        command = [knobs.nvidia.cuobjdump.path, "--dump-resource-usage", file.name]
        said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    ((registers, stack),) = re.findall(r"REG:(\d+) STACK:(\d+)", said)
    return int(registers), int(stack)


def report(capabilities: Sequence[int]) -> Iterator[str]:
    """A table of all kernels in bf16 for heads of 64 and 128 numbers, line by line."""
    yield " sm head kernel         form      tile warps  regs  spill  shared"
    for capability in capabilities:
        for head_dim in (64, 128):
            for kernel in KERNELS:
                tile = tile_for(kernel, head_dim, 2)
                for form, flags in _FORMS.items():
                    found = resources(kernel, head_dim, capability, **flags)
                    yield (
                        f"{capability:>3} {head_dim:>4} {kernel:<14} {form:<6} {f'{tile.queries}x{tile.keys}':>8} "
                        f"{tile.warps:>5} {found.registers:>5} {found.spilled:>6} {found.shared:>7}"
                    )


if __name__ == "__main__":
    for line in report([int(word) for word in sys.argv[1:]] or [80, 90]):
        print(line, flush=True)

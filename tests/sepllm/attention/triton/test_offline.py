"""Every kernel compiles for the GPUs we aim at, keeps its numbers in registers and fits their shared memory."""

from importlib.metadata import version

import pytest

pytest.importorskip("triton", reason="needs the package triton (pip install triton)")

from sepllm.attention.triton.offline import resources
from sepllm.attention.triton.tiles import KERNELS, Tile

SHARED = {80: 99 * 1024, 90: 227 * 1024}  # 80 stands for its smaller sisters, 86 and 89, too
# Bytes per thread. Measured with Triton 3.7 to 3.9: none; 3.4 and 3.6: up to 56.
SPILLED = 0 if tuple(map(int, version("triton").split(".")[:2])) >= (3, 7) else 64


@pytest.mark.slow
@pytest.mark.parametrize("capability", [80, 90])
@pytest.mark.parametrize("kernel", KERNELS)
def test_no_spills_in_bf16(kernel: str, capability: int) -> None:
    for head_dim in (64, 128):
        for everything in (False, True):
            found = resources(kernel, head_dim, capability, has_ends=everything, alibi=everything)
            assert found.spilled <= SPILLED, f"{kernel} at {head_dim}: {found}"
            assert found.shared <= SHARED[capability], f"{kernel} at {head_dim}: {found}"


@pytest.mark.slow
@pytest.mark.parametrize("kernel", KERNELS)
def test_compiles_where_sizes_are_one(kernel: str) -> None:
    """Triton makes constants of arguments that are 1: one token, one head, a window of one."""
    ones = ("seq", "queries", "window", "group", "heads", "kv_heads")
    assert resources(kernel, 64, 80, has_ends=True, alibi=True, ones=ones).spilled <= SPILLED


@pytest.mark.slow
def test_float32_and_odd_heads_compile() -> None:
    for kernel in KERNELS:
        assert resources(kernel, 64, 80, dtype="fp32").shared <= SHARED[80]
        assert resources(kernel, 80, 90, dtype="fp16").spilled <= SPILLED


def test_spills_are_seen() -> None:
    """A tile far too large for four warps must show."""
    assert resources("backward_far", 64, 80, tile=Tile(64, 128, 4, 2)).spilled > 300

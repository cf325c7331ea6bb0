"""Sizes of the tiles, warps and pipeline stages per kernel. Change them here after measuring on a GPU."""

from dataclasses import dataclass

KERNELS = ("forward", "backward_query", "backward_near", "backward_far")


@dataclass(frozen=True)
class Tile:
    """queries and keys per tile, warps per program, loads in flight."""

    queries: int
    keys: int
    warps: int
    stages: int


# Chosen so that no register spills on sm_80 and sm_90 (python -m sepllm.attention.triton.offline), not yet by time.
_HALF = {
    64: {
        "forward": Tile(128, 64, 8, 3),
        "backward_query": Tile(128, 64, 8, 2),
        "backward_near": Tile(32, 64, 4, 3),
        "backward_far": Tile(32, 128, 8, 2),
    },
    128: {
        "forward": Tile(128, 64, 8, 3),
        "backward_query": Tile(128, 32, 8, 2),
        "backward_near": Tile(32, 64, 8, 3),
        "backward_far": Tile(32, 64, 8, 2),
    },
}
_SINGLE = Tile(32, 32, 8, 1)


def block_dim(head_dim: int) -> int:
    """The power of two, at least 16, that holds a head."""
    return max(16, 1 << (head_dim - 1).bit_length())


def tile_for(kernel: str, head_dim: int, bytes_per_number: int) -> Tile:
    """The tile of one of KERNELS for heads of head_dim numbers of 2 (bf16, fp16) or 4 bytes (fp32)."""
    if bytes_per_number > 2:
        return _SINGLE
    return _HALF[64 if block_dim(head_dim) <= 64 else 128][kernel]

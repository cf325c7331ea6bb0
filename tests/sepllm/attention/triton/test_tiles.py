"""Tiles exist for every kernel, and their sides are powers of two that tensor cores take."""

import pytest

from sepllm.attention.triton.tiles import KERNELS, block_dim, tile_for


@pytest.mark.parametrize(("head_dim", "block"), [(1, 16), (16, 16), (17, 32), (64, 64), (80, 128), (128, 128)])
def test_block_of_a_head(head_dim: int, block: int) -> None:
    assert block_dim(head_dim) == block


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("bytes_per_number", [2, 4])
def test_sides_of_a_tile(kernel: str, bytes_per_number: int) -> None:
    for head_dim in (16, 64, 80, 128):
        tile = tile_for(kernel, head_dim, bytes_per_number)
        for side in (tile.queries, tile.keys, 16 * tile.warps):
            assert side >= 16 and side & (side - 1) == 0

"""Which ranks draw the same numbers: tensor ranks do; stages, replicas and the ranks of a context group do not."""

import torch

from megatron.mpu.parallel_state import ParallelState, TensorParallel
from megatron.mpu.random import seed_activations
from sepllm.attention.context.exchange import ContextGroup


def _draw(parallel: ParallelState) -> int:
    with torch.random.fork_rng(devices=[]):
        seed_activations(7, parallel)
        return int(torch.randint(2**62, (1,)))


def test_only_tensor_ranks_share_their_numbers() -> None:
    drawn = {
        (stage, replica, part): _draw(
            ParallelState(pp_rank=stage, dp_rank=replica, cp=ContextGroup(part, 3), tp=TensorParallel(rank=1, size=2))
        )
        for stage in range(2)
        for replica in range(2)
        for part in range(3)
    }
    assert len(set(drawn.values())) == len(drawn)
    other_tensor_rank = ParallelState(pp_rank=1, dp_rank=1, cp=ContextGroup(2, 3), tp=TensorParallel(rank=0, size=2))
    assert _draw(other_tensor_rank) == drawn[1, 1, 2]

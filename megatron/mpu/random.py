"""Random numbers across ranks: which ranks draw the same dropout mask, which must not.

Tensor ranks share the seed, since they hold copies of the same activations; stages, replicas and the ranks of a
context group differ.
"""

import contextlib
from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from megatron.mpu.parallel_state import ParallelState, TensorParallel
from megatron.mpu.shard import derive_seed


def seed_activations(seed: int, parallel: ParallelState) -> None:
    """Seed torch's default generators (CPU and device) for this stage, replica and part of the text."""
    torch.manual_seed(derive_seed(seed, "activations", parallel.pp_rank, parallel.data_rank))


@torch.compiler.disable
def dropout_of_states(states: Tensor, p: float, training: bool, tp: TensorParallel) -> Tensor:
    """Dropout of hidden states: the same on copies, drawn apart on parts of the sequence."""
    if not (p and training):
        return states
    with different_per_tensor_rank(tp if tp.sequence else TensorParallel(), states.device):
        return F.dropout(states, p)


@contextlib.contextmanager
def different_per_tensor_rank(tp: TensorParallel, device: torch.device) -> Iterator[None]:
    """Inside, each tensor rank draws its own numbers: for dropout on split activations (heads, parts of a sequence).

    The seed comes out of the shared CPU generator, so recomputation, which restores that generator,
    repeats the same numbers, and after the block the ranks still agree.
    """
    if tp.size == 1:
        yield
        return
    shared = int(torch.randint(0, 2**62, (1,)))
    devices = [] if device.type == "cpu" else [device]
    with torch.random.fork_rng(devices=devices, device_type=device.type if devices else "cuda"):
        torch.manual_seed(derive_seed(shared, tp.rank))
        yield

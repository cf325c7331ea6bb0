"""The four moves between replicated and split activations (Megatron-LM, Shoeybi et al. 2019).

Each is a pair: what happens forward, and its adjoint backward. With one tensor rank all return their input.
"""

from typing import Any

import torch
import torch.distributed
from torch import Tensor

from megatron.mpu.parallel_state import TensorParallel


def copy_to_tensor_parallel(replicated: Tensor, tp: TensorParallel) -> Tensor:
    """Forward: identity. Backward: sum the gradients of all tensor ranks. Any shape."""
    return replicated if tp.size == 1 else _Copy.apply(replicated, tp)


def reduce_from_tensor_parallel(partial: Tensor, tp: TensorParallel) -> Tensor:
    """Forward: sum over the tensor ranks. Backward: identity. Any shape."""
    return partial if tp.size == 1 else _Reduce.apply(partial, tp)


def gather_last_dim(split: Tensor, tp: TensorParallel) -> Tensor:
    """Forward: join the ranks' parts, [..., n / tp] -> [..., n]. Backward: take the own part."""
    return split if tp.size == 1 else _Gather.apply(split, tp)


def split_last_dim(replicated: Tensor, tp: TensorParallel) -> Tensor:
    """Forward: take the own part, [..., n] -> [..., n / tp]. Backward: join the ranks' parts."""
    return replicated if tp.size == 1 else _Split.apply(replicated, tp)


class _Copy(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, replicated: Tensor, tp: TensorParallel) -> Tensor:
        ctx.tp = tp
        return replicated.view_as(replicated)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return _sum(grad, ctx.tp), None


class _Reduce(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, partial: Tensor, tp: TensorParallel) -> Tensor:
        return _sum(partial, tp)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return grad, None


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, split: Tensor, tp: TensorParallel) -> Tensor:
        ctx.tp = tp
        return _join(split, tp)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return _own_part(grad, ctx.tp), None


class _Split(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, replicated: Tensor, tp: TensorParallel) -> Tensor:
        ctx.tp = tp
        return _own_part(replicated, tp)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return _join(grad, ctx.tp), None


def _sum(tensor: Tensor, tp: TensorParallel) -> Tensor:
    # A copy: the incoming tensor may be shared with another branch of the graph.
    total = tensor.clone(memory_format=torch.contiguous_format)
    torch.distributed.all_reduce(total, group=tp.group)
    return total


def _join(part: Tensor, tp: TensorParallel) -> Tensor:
    part = part.contiguous()
    parts = [torch.empty_like(part) for _ in range(tp.size)]
    torch.distributed.all_gather(parts, part, group=tp.group)
    return torch.cat(parts, dim=-1)


def _own_part(whole: Tensor, tp: TensorParallel) -> Tensor:
    return whole.chunk(tp.size, dim=-1)[tp.rank].contiguous()

"""The moves between replicated and split activations (Megatron-LM, Shoeybi et al. 2019, Korthikanti et al. 2022).

Each is a pair: what happens forward, and its adjoint backward. With one tensor rank all moves return their input.
"""

from typing import Any

import torch
import torch.distributed
import torch.nn.functional as F
from torch import Tensor

from megatron.mpu.parallel_state import TensorParallel


def copy_to_tensor_parallel(replicated: Tensor, tp: TensorParallel) -> Tensor:
    """Forward: identity. Backward: sum the gradients of all tensor ranks. Any shape."""
    return replicated if tp.size == 1 else _apply(_Copy, replicated, tp)


def reduce_from_tensor_parallel(partial: Tensor, tp: TensorParallel) -> Tensor:
    """Forward: sum over the tensor ranks. Backward: identity. Any shape."""
    return partial if tp.size == 1 else _apply(_Reduce, partial, tp)


def gather_last_dim(split: Tensor, tp: TensorParallel) -> Tensor:
    """Forward: join the ranks' parts, [..., n / tp] -> [..., n]. Backward: take the own part."""
    return split if tp.size == 1 else _apply(_Gather, split, tp)


def split_last_dim(replicated: Tensor, tp: TensorParallel) -> Tensor:
    """Forward: take the own part, [..., n] -> [..., n / tp]. Backward: join the ranks' parts."""
    return replicated if tp.size == 1 else _apply(_Split, replicated, tp)


def scatter_sequence(partial: Tensor, tp: TensorParallel) -> Tensor:
    """Forward: sum over the ranks, keep the own part of the sequence, [b, s, ...] -> [b, s / tp, ...].

    Backward: join the ranks' parts.
    """
    return partial if tp.size == 1 else _apply(_ScatterSequence, partial, tp)


def sum_to_states(partial: Tensor, tp: TensorParallel) -> Tensor:
    """Summands of all tensor ranks [b, s, h] -> hidden states as layers hand them on: whole, or [b, s / tp, h]."""
    return scatter_sequence(partial, tp) if tp.sequence else reduce_from_tensor_parallel(partial, tp)


def weight_for_states(weight: Tensor, tp: TensorParallel) -> Tensor:
    """A whole weight (norm, bias, positions) that acts on hidden states.

    Where each rank sees its part of the sequence only, the gradients of the parts are summed.
    """
    return copy_to_tensor_parallel(weight, tp) if tp.sequence else weight


def linear_of_states(states: Tensor, weight: Tensor, bias: Tensor | None, tp: TensorParallel) -> Tensor:
    """x W^T + b with the rows of W cut, over the whole sequence: hidden states -> [b, s, out / tp].

    With `tp.sequence` the states [b, s / tp, in] are joined for the product only, and again in backward: what is kept
    for backward is the own part.
    """
    if tp.sequence:
        product: Tensor = _apply(_JoinedLinear, states, weight, bias, tp)
        return product
    return F.linear(copy_to_tensor_parallel(states, tp), weight, bias)


@torch.compiler.disable
def _apply(move: Any, *inputs: Any) -> Any:
    """Communication stays out of compiled code: traced, a reduce-scatter gave wrong sums (torch 2.13)."""
    return move.apply(*inputs)


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


class _ScatterSequence(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, partial: Tensor, tp: TensorParallel) -> Tensor:
        ctx.tp = tp
        return _sum_of_own_part(partial, tp)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return _join(grad, ctx.tp, dim=1), None


class _JoinedLinear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, states: Tensor, weight: Tensor, bias: Tensor | None, tp: TensorParallel) -> Tensor:
        ctx.save_for_backward(states, weight)
        ctx.tp, ctx.has_bias = tp, bias is not None
        return F.linear(_join(states, tp, dim=1), weight, bias)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, Tensor | None, None]:
        states, weight = ctx.saved_tensors
        grad_states = _sum_of_own_part(grad.matmul(weight), ctx.tp)
        rows = grad.flatten(end_dim=-2)
        grad_weight = rows.t().mm(_join(states, ctx.tp, dim=1).flatten(end_dim=-2))
        return grad_states, grad_weight, rows.sum(dim=0) if ctx.has_bias else None, None


def _sum(tensor: Tensor, tp: TensorParallel) -> Tensor:
    # A copy: the incoming tensor may be shared with another branch of the graph.
    total = tensor.clone(memory_format=torch.contiguous_format)
    torch.distributed.all_reduce(total, group=tp.group)
    return total


def _sum_of_own_part(tensor: Tensor, tp: TensorParallel) -> Tensor:
    """[b, s, ...] -> [b, s / tp, ...]."""
    parts = [part.contiguous() for part in tensor.chunk(tp.size, dim=1)]
    own = torch.empty_like(parts[tp.rank])
    torch.distributed.reduce_scatter(own, parts, group=tp.group)
    return own


def _join(part: Tensor, tp: TensorParallel, dim: int = -1) -> Tensor:
    part = part.contiguous()
    parts = [torch.empty_like(part) for _ in range(tp.size)]
    torch.distributed.all_gather(parts, part, group=tp.group)
    return torch.cat(parts, dim=dim)


def _own_part(whole: Tensor, tp: TensorParallel) -> Tensor:
    return whole.chunk(tp.size, dim=-1)[tp.rank].contiguous()

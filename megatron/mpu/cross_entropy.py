"""Cross entropy over logits whose vocabulary is cut over the tensor ranks, summed in fp32.

Works through the tokens in chunks, so no fp32 copy of all logits exists at any time; on a CPU a chunk stays in the
cache of a core while it is worked on.
"""

from typing import Any

import torch
import torch.distributed
from torch import Tensor

from megatron.mpu.parallel_state import TensorParallel

_CHUNK_ELEMENTS = {"cpu": 1 << 19, "other": 1 << 26}  # 2 and 256 MiB in fp32


def vocab_parallel_cross_entropy(logits: Tensor, labels: Tensor, tp: TensorParallel) -> Tensor:
    """Negative log likelihood of each label, in fp32.

    logits: [..., vocab / tp] in any float type. labels: int64 [...], ids of the full vocabulary.
    Returns [...]. float64 logits are summed in float64.
    """
    return cross_entropy_and_log_z(logits, labels, tp)[0]


def cross_entropy_and_log_z(
    logits: Tensor, labels: Tensor, tp: TensorParallel, overwrite_logits: bool = False
) -> tuple[Tensor, Tensor]:
    """The same, and beside it the log of each token's softmax denominator, [...].

    overwrite_logits: backward writes the gradient into the memory of the logits, for callers that never read them
    again; the largest tensor of training then exists once.
    """
    if labels.shape != logits.shape[:-1]:
        raise ValueError(f"labels {tuple(labels.shape)} do not fit logits {tuple(logits.shape)}")
    losses, log_z = _CrossEntropy.apply(logits.reshape(-1, logits.shape[-1]), labels.reshape(-1), tp, overwrite_logits)
    return losses.view(labels.shape), log_z.view(labels.shape)


class _CrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, logits: Tensor, labels: Tensor, tp: TensorParallel, overwrite: bool) -> tuple[Tensor, Tensor]:
        accumulate = torch.float64 if logits.dtype == torch.float64 else torch.float32
        local, elsewhere = _local_labels(logits, labels, tp)
        own = torch.empty(logits.shape[0], dtype=accumulate, device=logits.device)
        exp_sum = torch.empty_like(own)
        for rows in _chunks(logits):
            part = logits[rows].to(accumulate)
            own[rows] = part.amax(dim=-1)
            exp_sum[rows] = (part - own[rows, None]).exp_().sum(dim=-1)
        highest = own
        if tp.size > 1:
            highest = own.clone()
            torch.distributed.all_reduce(highest, op=torch.distributed.ReduceOp.MAX, group=tp.group)
            exp_sum *= (own - highest).exp_()
        target = logits.gather(1, local[:, None])[:, 0].to(accumulate) - highest
        sums = torch.stack([exp_sum, target.masked_fill(elsewhere, 0.0)])
        if tp.size > 1:
            torch.distributed.all_reduce(sums, group=tp.group)
        log_sum = sums[0].log()
        ctx.save_for_backward(logits, local, elsewhere, highest + log_sum)
        ctx.overwrite = overwrite
        return log_sum - sums[1], highest + log_sum

    @staticmethod
    def backward(ctx: Any, grad: Tensor, grad_log_z: Tensor) -> tuple[Tensor, None, None, None]:
        logits, local, elsewhere, log_total = ctx.saved_tensors
        grad_softmax = grad + grad_log_z
        grad_logits = logits if ctx.overwrite else torch.empty_like(logits)
        in_place = logits.dtype == log_total.dtype
        hit = grad.masked_fill(elsewhere, 0.0)
        for rows in _chunks(logits):
            target = grad_logits[rows]
            part = target if in_place else torch.empty_like(target, dtype=log_total.dtype)
            torch.sub(logits[rows], log_total[rows, None], out=part)
            part.exp_().mul_(grad_softmax[rows, None])
            part.scatter_add_(1, local[rows, None], -hit[rows, None])
            if not in_place:
                target.copy_(part)
        return grad_logits, None, None, None


def _local_labels(logits: Tensor, labels: Tensor, tp: TensorParallel) -> tuple[Tensor, Tensor]:
    """Column of each label in this rank's logits (0 where another rank holds it), and where that is."""
    size = logits.shape[-1]
    local = labels - tp.rank * size
    elsewhere = (local < 0) | (local >= size)
    known = (labels >= 0) & (labels < size * tp.size)  # the others must fail, not count as zero
    return local.masked_fill(elsewhere & known, 0), elsewhere


def _chunks(logits: Tensor) -> list[slice]:
    elements = _CHUNK_ELEMENTS.get(logits.device.type, _CHUNK_ELEMENTS["other"])
    rows = max(1, elements // logits.shape[-1])
    return [slice(start, start + rows) for start in range(0, logits.shape[0], rows)]

"""Cross entropy over logits whose vocabulary is cut over the tensor ranks, summed in fp32.

Works through the tokens in chunks, so no fp32 copy of all logits exists at any time.
"""

from typing import Any

import torch
import torch.distributed
from torch import Tensor

from megatron.mpu.parallel_state import TensorParallel

_CHUNK_ELEMENTS = 1 << 22  # 16 MiB in fp32


def vocab_parallel_cross_entropy(logits: Tensor, labels: Tensor, tp: TensorParallel) -> Tensor:
    """Negative log likelihood of each label, in fp32.

    logits: [..., vocab / tp] in any float type. labels: int64 [...], ids of the full vocabulary.
    Returns [...]. float64 logits are summed in float64.
    """
    return cross_entropy_and_log_z(logits, labels, tp)[0]


def cross_entropy_and_log_z(logits: Tensor, labels: Tensor, tp: TensorParallel) -> tuple[Tensor, Tensor]:
    """The same, and beside it the log of each token's softmax denominator, [...]."""
    if labels.shape != logits.shape[:-1]:
        raise ValueError(f"labels {tuple(labels.shape)} do not fit logits {tuple(logits.shape)}")
    losses, log_z = _CrossEntropy.apply(logits.reshape(-1, logits.shape[-1]), labels.reshape(-1), tp)
    return losses.view(labels.shape), log_z.view(labels.shape)


class _CrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, logits: Tensor, labels: Tensor, tp: TensorParallel) -> tuple[Tensor, Tensor]:
        accumulate = torch.float64 if logits.dtype == torch.float64 else torch.float32
        local, elsewhere = _local_labels(logits, labels, tp)
        highest = logits.amax(dim=-1).to(accumulate)
        if tp.size > 1:
            torch.distributed.all_reduce(highest, op=torch.distributed.ReduceOp.MAX, group=tp.group)
        exp_sum = torch.empty_like(highest)
        for rows in _chunks(logits):
            exp_sum[rows] = (logits[rows].to(accumulate) - highest[rows, None]).exp_().sum(dim=-1)
        target = logits.gather(1, local[:, None])[:, 0].to(accumulate) - highest
        sums = torch.stack([exp_sum, target.masked_fill(elsewhere, 0.0)])
        if tp.size > 1:
            torch.distributed.all_reduce(sums, group=tp.group)
        log_sum = sums[0].log()
        ctx.save_for_backward(logits, local, elsewhere, highest + log_sum)
        return log_sum - sums[1], highest + log_sum

    @staticmethod
    def backward(ctx: Any, grad: Tensor, grad_log_z: Tensor) -> tuple[Tensor, None, None]:
        logits, local, elsewhere, log_total = ctx.saved_tensors
        grad_softmax = grad + grad_log_z
        grad_logits = torch.empty_like(logits)
        hit = grad.masked_fill(elsewhere, 0.0)
        for rows in _chunks(logits):
            part = (logits[rows].to(log_total.dtype) - log_total[rows, None]).exp_()
            part *= grad_softmax[rows, None]
            part.scatter_add_(1, local[rows, None], -hit[rows, None])
            grad_logits[rows] = part
        return grad_logits, None, None


def _local_labels(logits: Tensor, labels: Tensor, tp: TensorParallel) -> tuple[Tensor, Tensor]:
    """Column of each label in this rank's logits (0 where another rank holds it), and where that is."""
    size = logits.shape[-1]
    local = labels - tp.rank * size
    elsewhere = (local < 0) | (local >= size)
    known = (labels >= 0) & (labels < size * tp.size)  # the others must fail, not count as zero
    return local.masked_fill(elsewhere & known, 0), elsewhere


def _chunks(logits: Tensor) -> list[slice]:
    rows = max(1, _CHUNK_ELEMENTS // logits.shape[-1])
    return [slice(start, start + rows) for start in range(0, logits.shape[0], rows)]

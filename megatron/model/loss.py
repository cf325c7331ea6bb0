"""The training loss: negative log likelihood of the next token, summed under weights."""

from torch import Tensor

from megatron.mpu.cross_entropy import cross_entropy_and_log_z
from megatron.mpu.parallel_state import TensorParallel


def weighted_loss(
    logits: Tensor,
    targets: tuple[Tensor, Tensor],
    tp: TensorParallel,
    z_loss: float = 0.0,
    overwrite_logits: bool = False,
) -> Tensor:
    """Sum of each token's loss times its weight, in fp32.

    logits: [batch, seq, vocab / tp]. targets: labels int64 [batch, seq] and weights [batch, seq]: the caller decides
    with them what the sum is a mean of (`megatron.training.batches`).
    z_loss: weight of the mean squared log of the softmax's denominator (Chowdhery et al. 2022, arXiv 2204.02311).
    It adds its gradient and not its value, so that losses of runs with and without it can be compared.
    overwrite_logits: backward may use their memory for their gradient; nobody reads them after this.
    """
    labels, weights = targets
    losses, log_z = cross_entropy_and_log_z(logits, labels, tp, overwrite_logits)
    if z_loss:
        penalty = z_loss * log_z.square()
        losses = losses + (penalty - penalty.detach())
    return (losses * weights.to(losses.dtype)).sum()


def language_model_loss(
    logits: Tensor, targets: tuple[Tensor, Tensor], tp: TensorParallel, z_loss: float = 0.0
) -> Tensor:
    """Mean over the unmasked tokens of this batch, in fp32; 0 when every token is masked.

    targets: labels int64 [batch, seq] and loss_mask [batch, seq]; the rest as for `weighted_loss`.
    """
    return weighted_loss(logits, targets, tp, z_loss) / targets[1].sum().clamp(min=1.0)

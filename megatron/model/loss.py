"""The training loss: mean negative log likelihood of the next token."""

from torch import Tensor

from megatron.mpu.cross_entropy import cross_entropy_and_log_z
from megatron.mpu.parallel_state import TensorParallel


def language_model_loss(
    logits: Tensor, targets: tuple[Tensor, Tensor], tp: TensorParallel, z_loss: float = 0.0
) -> Tensor:
    """Mean over the unmasked tokens, in fp32; 0 when every token is masked.

    logits: [batch, seq, vocab / tp]. targets: labels int64 [batch, seq] and loss_mask [batch, seq].
    z_loss: weight of the mean squared log of the softmax's denominator (Chowdhery et al. 2022, arXiv 2204.02311).
    It adds its gradient and not its value, so that losses of runs with and without it can be compared.
    """
    labels, loss_mask = targets
    losses, log_z = cross_entropy_and_log_z(logits, labels, tp)
    if z_loss:
        penalty = z_loss * log_z.square()
        losses = losses + (penalty - penalty.detach())
    weights = loss_mask.to(losses.dtype)
    return (losses * weights).sum() / weights.sum().clamp(min=1.0)

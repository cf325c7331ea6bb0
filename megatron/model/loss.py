"""The training loss: mean negative log likelihood of the next token."""

from torch import Tensor

from megatron.mpu.cross_entropy import vocab_parallel_cross_entropy
from megatron.mpu.parallel_state import TensorParallel


def language_model_loss(logits: Tensor, targets: tuple[Tensor, Tensor], tp: TensorParallel) -> Tensor:
    """Mean over the unmasked tokens, in fp32; 0 when every token is masked.

    logits: [batch, seq, vocab / tp]. targets: labels int64 [batch, seq] and loss_mask [batch, seq].
    """
    labels, loss_mask = targets
    losses = vocab_parallel_cross_entropy(logits, labels, tp)
    weights = loss_mask.to(losses.dtype)
    return (losses * weights).sum() / weights.sum().clamp(min=1.0)

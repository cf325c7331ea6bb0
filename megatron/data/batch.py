"""What the loader hands to training."""

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Batch:
    """One micro-batch of one data-parallel rank.

    tokens: int64 [batch, seq], what the model sees.
    labels: int64 [batch, seq], the token after each (0 where the loss mask is 0 for want of a label).
    loss_mask: float32 [batch, seq], 1 where the prediction counts.
    position_ids: int64 [seq], 0..seq-1.
    sample_ids: int64 [batch, 2], which set of the mixture and which of its samples each row is.
    """

    tokens: Tensor
    labels: Tensor
    loss_mask: Tensor
    position_ids: Tensor
    sample_ids: Tensor

"""How much attention the training batches keep, added up on the device without waiting for it."""

import torch
from torch import Tensor

from megatron.model.micro_batch import MicroBatch
from sepllm.attention.statistics import attention_counts


class AttentionCounter:
    """Counts the layers whose plans it is shown; training counts, evaluation does not."""

    def __init__(self, num_layers: int, device: str) -> None:
        self._counts = torch.zeros(num_layers, 4, dtype=torch.float64, device=device)

    def count(self, batch: MicroBatch) -> None:
        """Add the micro-batch's plans: of whole texts, which the first rank of a context group counts for all."""
        layers = sorted(batch.plans)
        if layers and (batch.context is None or batch.context.group.rank == 0):
            rows = torch.stack([attention_counts(batch.plans[layer]) for layer in layers])
            self._counts[layers[0] : layers[-1] + 1] += rows

    def pop(self) -> Tensor:
        """float64 [num_layers, 4] since the last call.

        Kept and causal query-key pairs; keys that the last tokens of the rows see, and those of full attention.
        """
        counts, self._counts = self._counts, torch.zeros_like(self._counts)
        return counts

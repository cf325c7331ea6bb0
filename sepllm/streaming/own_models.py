"""Models exported by this project that no stock class can stand in for: those with ALiBi.

Their own code reads the text; what a query sees, and at which distance, comes from the block that is read.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache

from sepllm.attention.positions import alibi_slopes
from sepllm.errors import UnsupportedError
from sepllm.hf.stock import has_own_rule
from sepllm.streaming.block_attention import block_in_reading


def own_slopes(model: Any) -> Tensor | None:
    """ALiBi's slopes of a model of ours, float [heads]; None for every other model.

    Raises UnsupportedError for what cannot be computed from kept tokens alone.
    """
    config = model.config
    if not has_own_rule(model) or config.position_embedding != "alibi":
        return None
    if needs := config.needs_of_whole_text():
        raise UnsupportedError(f"Streaming drops tokens that {type(model).__name__} needs: {'; '.join(needs)}.")
    return torch.tensor(alibi_slopes(config.num_attention_heads), device=next(model.parameters()).device)


class StreamCache(DynamicCache):
    """Keys and values alone; in the place of the model's own rule stands the block that is read."""

    counts_distances = True

    def begin(self, ids: Tensor, real: Tensor | None) -> _BlockSight:
        """What the new tokens see; see `Sight`."""
        return _BlockSight()


class _BlockSight:
    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor, scale: float | None, dropout_p: float) -> Tensor:
        scale = q.shape[-1] ** -0.5 if scale is None else scale
        return block_in_reading().attend(q, k, v, scale)

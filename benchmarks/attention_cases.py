"""The contestants of attention.py: what each prepares per text, and its forward and backward pass."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention.flex_attention import create_block_mask
from torch.nn.functional import scaled_dot_product_attention

from sepllm.attention.blocks import SPAN, blocks_of
from sepllm.attention.interface import separator_attention
from sepllm.attention.plan import build_plan
from sepllm.attention.rule import keep_mask
from sepllm.config import SepConfig

# (q, k, v, what prepare returned) -> output
Attend = Callable[[Tensor, Tensor, Tensor, Any], Tensor]


@dataclass(frozen=True)
class Case:
    """One way to attend. prepare: (config, token_ids) -> what all layers share for one text."""

    prepare: Callable[[SepConfig, Tensor], Any]
    attend: Attend


@dataclass(frozen=True)
class Inputs:
    """q, k, v as models hold them: leaves [1, seq, heads, head_dim]; grad: of the output, [1, heads, seq, head_dim]."""

    leaves: tuple[Tensor, ...]
    grad: Tensor

    def step(self, case: Case, prepared: Any) -> list[Tensor]:
        """Forward and backward: output and gradients of the leaves."""
        q, k, v = (leaf.transpose(1, 2) for leaf in self.leaves)
        out = case.attend(q, k, v, prepared)
        return [out.detach(), *torch.autograd.grad(out, self.leaves, self.grad)]


def make_inputs(seq: int, heads: int, head_dim: int, dtype: torch.dtype = torch.float32) -> Inputs:
    """Normal random numbers, the same in every process."""
    source = torch.Generator().manual_seed(seq)
    made = [torch.randn(1, seq, heads, head_dim, generator=source, dtype=dtype) for _ in range(4)]
    leaves = tuple(tensor.requires_grad_() for tensor in made[:3])
    return Inputs(leaves, made[3].transpose(1, 2))


def packed_plan(config: SepConfig, token_ids: Tensor) -> Any:
    """Everything that is worked out once per text, the masks that stay with the plan included."""
    plan = build_plan(config, token_ids)
    for block in blocks_of(plan, plan.seq, SPAN)[0]:
        block.near_keep()
        if any(keep is not None for _, keep in block.far_stretches()):
            block.far_some()
    return plan


CASES = {
    "causal": Case(lambda config, ids: None, lambda q, k, v, _: scaled_dot_product_attention(q, k, v, is_causal=True)),
    "dense_mask": Case(
        lambda config, ids: keep_mask(config, ids)[:, None],
        lambda q, k, v, mask: scaled_dot_product_attention(q, k, v, attn_mask=mask),
    ),
    "packed": Case(packed_plan, lambda q, k, v, plan: separator_attention(q, k, v, plan, path="packed")),
}


def original_mask(config: SepConfig, token_ids: Tensor) -> Any:
    """As the published code prepares FlexAttention: a dense mask, and a block mask made from it.

    FlexAttention has no backward pass on a CPU, so that of the original's way only this can be measured there.
    """
    keep = keep_mask(config, token_ids)
    seq = token_ids.shape[1]

    def looks(batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        return keep[batch, query, key]

    return create_block_mask(looks, len(token_ids), None, seq, seq, device=str(token_ids.device))

"""Our tensors and those of Hugging Face models, both ways: one table for export and import.

Layouts are equal ([out, in] weights, rotated halves) but for one: our fused query_key_value is head-major,
[q ..., k, v] of each group of heads, as GPT-NeoX's is; LLaMA's family keeps three projections apart.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from einops import rearrange
from torch import Tensor

from sepllm.hf.families import FAMILIES

_LAYER = re.compile(r"layers\.(\d+)\.(.+)\.(weight|bias)")


@dataclass(frozen=True)
class TensorMap:
    """family: "gpt_neox" (stock and ours) or "llama" (LLaMA, Mistral, Qwen, and ours); heads as in the model."""

    family: str
    num_attention_heads: int
    num_kv_heads: int

    def names(self, name: str) -> tuple[str, ...]:
        """Where our tensor lies in the family's model, in order; KeyError for a tensor that no model of ours has."""
        if match := _LAYER.fullmatch(name):
            layer, module, kind = match.groups()
            base = FAMILIES[self.family].base
            return tuple(f"{base}.layers.{layer}.{theirs}.{kind}" for theirs in self._modules[module])
        return (self._outside[name],)

    def split(self, name: str, tensor: Tensor) -> dict[str, Tensor]:
        """Our tensor under the family's names."""
        names = self.names(name)
        if len(names) == 1:
            return {names[0]: tensor}
        per_group = self.num_attention_heads // self.num_kv_heads
        fused = rearrange(tensor, "(g r d) ... -> g r d ...", g=self.num_kv_heads, r=per_group + 2)
        parts = fused[:, :-2], fused[:, -2:-1], fused[:, -1:]
        return {theirs: part.flatten(0, 2) for theirs, part in zip(names, parts, strict=True)}

    def join(self, name: str, tensors: Sequence[Tensor]) -> Tensor:
        """The inverse of `split`: tensors in the order of `names`."""
        if len(tensors) == 1:
            return tensors[0]
        groups = [rearrange(tensor, "(g r) ... -> g r ...", g=self.num_kv_heads) for tensor in tensors]
        return torch.cat(groups, dim=1).flatten(0, 1)

    def shapes(self, name: str, shape: Sequence[int]) -> dict[str, tuple[int, ...]]:
        """The shapes that `split` gives a tensor of this shape."""
        names = self.names(name)
        if len(names) == 1:
            return {names[0]: tuple(shape)}
        heads = (self.num_attention_heads, self.num_kv_heads, self.num_kv_heads)
        head_dim = shape[0] // sum(heads)
        return {theirs: (count * head_dim, *shape[1:]) for theirs, count in zip(names, heads, strict=True)}

    @cached_property
    def _outside(self) -> dict[str, str]:
        family = FAMILIES[self.family]
        return {
            "embedding.word_embeddings.weight": f"{family.base}.{family.embedding}.weight",
            "embedding.position_embeddings.weight": f"{family.base}.{family.position_table}.weight",
            "final_norm.weight": f"{family.base}.{family.final_norm}.weight",
            "final_norm.bias": f"{family.base}.{family.final_norm}.bias",
            "head.final_linear.weight": f"{family.head}.weight",
        }

    @cached_property
    def _modules(self) -> dict[str, tuple[str, ...]]:
        family = FAMILIES[self.family]
        attention = {
            "query_key_value": family.projections,
            "dense": (family.out,),
            "query_layernorm": (family.query_norm,),
            "key_layernorm": (family.key_norm,),
        }
        mlp = zip(
            ("dense_h_to_4h", "dense_4h_to_h", "w1", "w2", "w3"), (*family.plain_mlp, *family.gated_mlp), strict=True
        )
        return {
            "input_layernorm": (family.input_norm,),
            "post_attention_layernorm": (family.mlp_norm,),
            **{
                f"attention.{ours}": tuple(f"{family.attention}.{part}" for part in theirs)
                for ours, theirs in attention.items()
            },
            **{f"mlp.{ours}": (f"mlp.{theirs}",) for ours, theirs in mlp},
        }

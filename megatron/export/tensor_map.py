"""Our tensors and those of Hugging Face models, both ways: one table for export and import.

Layouts are equal ([out, in] weights, rotated halves) but for one: our fused query_key_value is head-major,
[q ..., k, v] of each group of heads, as GPT-NeoX's is; LLaMA's family keeps three projections apart.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from einops import rearrange
from torch import Tensor

_NEOX_OUTSIDE = {
    "embedding.word_embeddings.weight": "gpt_neox.embed_in.weight",
    "embedding.position_embeddings.weight": "gpt_neox.position_embeddings.weight",
    "final_norm.weight": "gpt_neox.final_layer_norm.weight",
    "final_norm.bias": "gpt_neox.final_layer_norm.bias",
    "head.final_linear.weight": "embed_out.weight",
}
_NEOX_LAYER = re.compile(
    r"layers\.(\d+)\.((input_layernorm|post_attention_layernorm|attention\.(query_key_value|dense)"
    r"|mlp\.(dense_h_to_4h|dense_4h_to_h))\.(weight|bias))"
)
_LLAMA_OUTSIDE = {
    "embedding.word_embeddings.weight": "model.embed_tokens.weight",
    "final_norm.weight": "model.norm.weight",
    "head.final_linear.weight": "lm_head.weight",
}
_LLAMA_LAYER = re.compile(r"layers\.(\d+)\.(.+)\.(weight|bias)")
_LLAMA_MODULES = {
    "input_layernorm": ("input_layernorm",),
    "post_attention_layernorm": ("post_attention_layernorm",),
    "attention.query_key_value": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    "attention.query_layernorm": ("self_attn.q_norm",),
    "attention.key_layernorm": ("self_attn.k_norm",),
    "attention.dense": ("self_attn.o_proj",),
    "mlp.w1": ("mlp.gate_proj",),
    "mlp.w2": ("mlp.down_proj",),
    "mlp.w3": ("mlp.up_proj",),
}
FAMILIES = ("gpt_neox", "llama")


@dataclass(frozen=True)
class TensorMap:
    """family: "gpt_neox" (stock and ours) or "llama" (LLaMA, Mistral, Qwen, and ours); heads as in the model."""

    family: str
    num_attention_heads: int
    num_kv_heads: int

    def names(self, name: str) -> tuple[str, ...]:
        """Where our tensor lies in the family's model, in order; KeyError where such a model has no place for it."""
        if self.family == "gpt_neox":
            if match := _NEOX_LAYER.fullmatch(name):
                return (f"gpt_neox.layers.{match.group(1)}.{match.group(2)}",)
            return (_NEOX_OUTSIDE[name],)
        if match := _LLAMA_LAYER.fullmatch(name):
            layer, module, kind = match.groups()
            return tuple(f"model.layers.{layer}.{theirs}.{kind}" for theirs in _LLAMA_MODULES[module])
        return (_LLAMA_OUTSIDE[name],)

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

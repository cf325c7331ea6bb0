"""Tensor names: ours -> those of GPT-NeoX-shaped models in transformers (stock gpt_neox and ours alike)."""

import re

_OUTSIDE_LAYERS = {
    "embedding.word_embeddings.weight": "gpt_neox.embed_in.weight",
    "embedding.position_embeddings.weight": "gpt_neox.position_embeddings.weight",
    "final_norm.weight": "gpt_neox.final_layer_norm.weight",
    "final_norm.bias": "gpt_neox.final_layer_norm.bias",
    "head.final_linear.weight": "embed_out.weight",
}
_IN_LAYER = re.compile(
    r"layers\.(\d+)\.((input_layernorm|post_attention_layernorm|attention\.(query_key_value|dense)"
    r"|mlp\.(dense_h_to_4h|dense_4h_to_h))\.(weight|bias))"
)


def exported_name(name: str) -> str:
    """The name in the folder; KeyError for a tensor that such a model does not have.

    Layouts are equal: query_key_value is head-major on both sides, linear weights are [out, in].
    """
    if match := _IN_LAYER.fullmatch(name):
        return f"gpt_neox.layers.{match.group(1)}.{match.group(2)}"
    return _OUTSIDE_LAYERS[name]

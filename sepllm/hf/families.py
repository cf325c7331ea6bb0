"""What the parts of a model are called in the two families of transformers that our models resemble."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Family:
    """Attribute names; the names of the weights follow from them, and never change.

    attention: the attention of a layer. projections: one fused projection, head-major ([q ..., k, v] of each group of
    heads), or three apart. plain_mlp: act(x first) second. gated_mlp: (act(x first) * x third) second.
    """

    base: str
    embedding: str
    final_norm: str
    head: str
    attention: str
    projections: tuple[str, ...]
    out: str
    query_norm: str
    key_norm: str
    plain_mlp: tuple[str, str]
    gated_mlp: tuple[str, str, str]
    position_table: str = "position_embeddings"
    input_norm: str = "input_layernorm"
    mlp_norm: str = "post_attention_layernorm"


GPT_NEOX = Family(
    base="gpt_neox",
    embedding="embed_in",
    final_norm="final_layer_norm",
    head="embed_out",
    attention="attention",
    projections=("query_key_value",),
    out="dense",
    query_norm="query_layernorm",
    key_norm="key_layernorm",
    plain_mlp=("dense_h_to_4h", "dense_4h_to_h"),
    gated_mlp=("w1", "w2", "w3"),
)
LLAMA = Family(
    base="model",
    embedding="embed_tokens",
    final_norm="norm",
    head="lm_head",
    attention="self_attn",
    projections=("q_proj", "k_proj", "v_proj"),
    out="o_proj",
    query_norm="q_norm",
    key_norm="k_norm",
    plain_mlp=("up_proj", "down_proj"),
    gated_mlp=("gate_proj", "down_proj", "up_proj"),
)
FAMILIES = {"gpt_neox": GPT_NEOX, "llama": LLAMA}

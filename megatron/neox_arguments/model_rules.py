"""Rules between the keys of the model's newer forms: rotary scaling, biases of the MLP."""

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from megatron.neox_arguments.arguments import NeoXArgs

Complaint = tuple[str, str]

_ENTRIES_OF = {
    "linear": set(),
    "ntk": set(),
    "yarn": {"original_max_position_embeddings", "attention_factor", "beta_fast", "beta_slow", "truncate"},
    "llama3": {"original_max_position_embeddings", "low_freq_factor", "high_freq_factor"},
}


def rope_scaling_has_frequencies(args: "NeoXArgs") -> Iterator[Complaint]:
    if args.rope_scaling is None:
        return
    if args.pos_emb != "rotary":
        yield (
            "rope_scaling",
            f"rope_scaling stretches rotary positions; pos_emb is {args.pos_emb}. Use pos_emb: rotary.",
        )
        return
    head_dim = args.head_dim or args.hidden_size // args.num_attention_heads
    rotated = int(head_dim * args.rotary_pct)
    if args.rope_scaling.rope_type == "ntk" and rotated < 4:
        yield "rope_scaling", f"ntk needs 4 rotated dimensions; here are {rotated}. Use rope_type: linear."


def rope_scaling_entries_fit(args: "NeoXArgs") -> Iterator[Complaint]:
    block = args.rope_scaling
    if block is None:
        return
    foreign = sorted(block.model_fields_set - {"rope_type", "factor"} - _ENTRIES_OF[block.rope_type])
    if foreign:
        yield "rope_scaling", f"{', '.join(foreign)} mean nothing to rope_type {block.rope_type}. Remove them."
    if block.rope_type == "llama3" and block.low_freq_factor >= block.high_freq_factor:
        yield (
            "rope_scaling",
            f"low_freq_factor {block.low_freq_factor:g} must be below high_freq_factor {block.high_freq_factor:g}."
            " Llama 3 uses 1 and 4.",
        )
    if block.rope_type == "yarn" and block.beta_slow >= block.beta_fast:
        yield (
            "rope_scaling",
            f"beta_slow {block.beta_slow:g} must be below beta_fast {block.beta_fast:g}. Usual are 1 and 32.",
        )


def mlp_is_gated(args: "NeoXArgs") -> bool:
    """Whether the MLP has three matrices in place of two."""
    return args.mlp_type == "llama" or args.activation in ("geglu", "swiglu", "reglu", "glu", "bilinear")


def gated_mlp_has_no_bias(args: "NeoXArgs") -> Iterator[Complaint]:
    if mlp_is_gated(args) and args.use_bias_in_mlp and "use_bias_in_mlp" in args.model_fields_set:
        yield "use_bias_in_mlp", "the gated MLP has no biases. Set use_bias_in_mlp: false, or remove the line."


MODEL_RULES: list[Callable[["NeoXArgs"], Iterator[Complaint]]] = [
    rope_scaling_has_frequencies,
    rope_scaling_entries_fit,
    gated_mlp_has_no_bias,
]

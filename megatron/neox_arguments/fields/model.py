"""The model: widths, positions, norms, initial values, dropout."""

from typing import Annotated, Any, Literal

from pydantic import Field

from megatron.neox_arguments.fields.base import AnyCase, Count, Dropout, Group, NotNegative, Positive
from megatron.neox_arguments.fields.blocks import RopeScalingBlock

Activation = Literal["gelu", "geglu", "relu", "softsign", "swish", "mish", "silu", "swiglu", "reglu", "glu", "bilinear"]
InitMethod = Literal[
    "normal",
    "scaled_normal",
    "orthogonal",
    "scaled_orthogonal",
    "xavier_uniform",
    "xavier_normal",
    "wang_init",
    "small_init",
    "single_residual_scaled_normal",
]


class SizeArgs(Group):
    """How large the model is."""

    num_layers: Positive = Field(description="Transformer layers.")
    hidden_size: Positive = Field(description="Width of the model.")
    num_attention_heads: Positive = Field(description="Query heads; must divide hidden_size unless head_dim is given.")
    head_dim: Positive | None = Field(
        None, description="Width of one head; default hidden_size / num_attention_heads (Qwen3 has others)."
    )
    num_kv_heads: Positive | None = Field(
        None, description="Key/value heads (grouped queries); default: num_attention_heads."
    )
    intermediate_size: Positive | None = Field(
        None, description="Inner width of the MLP, taken literally; default 4 x hidden_size."
    )
    seq_length: Positive = Field(description="Tokens per training sequence.")
    max_position_embeddings: Positive = Field(description="Largest number of positions; at least seq_length.")
    make_vocab_size_divisible_by: Positive = Field(128, description="The vocabulary is padded to a multiple of this.")


class BlockArgs(Group):
    """What a layer consists of."""

    gpt_j_residual: bool = Field(False, description="Attention and MLP side by side on one residual (Pythia).")
    gpt_j_tied: bool = Field(False, description="With gpt_j_residual: one norm for both branches.")
    norm: Annotated[Literal["layernorm", "rmsnorm", "scalenorm"], AnyCase] = Field(
        "layernorm", description="Kind of norm."
    )
    layernorm_epsilon: float = Field(1e-5, gt=0, description="Epsilon of layernorm.")
    rms_norm_epsilon: float = Field(1e-8, gt=0, description="Epsilon of rmsnorm.")
    scalenorm_epsilon: float = Field(1e-8, gt=0, description="Epsilon of scalenorm.")
    use_qk_layernorm: bool = Field(False, description="Norm on queries and keys, per head.")
    use_bias_in_norms: bool = Field(True, description="Bias in layernorm.")
    use_bias_in_attn_linear: bool = Field(True, description="Biases in the query/key/value and output projections.")
    use_bias_in_attn_dense: bool | None = Field(
        None, description="Bias in the output projection; default use_bias_in_attn_linear (false beside true: Qwen2)."
    )
    use_bias_in_mlp: bool = Field(True, description="Biases in the regular MLP; the gated one has none.")
    mlp_type: Annotated[Literal["regular", "llama"], AnyCase] = Field(
        "regular", description="regular, or llama: gated."
    )
    activation: Annotated[Activation, AnyCase] = Field(
        "gelu", description="Non-linearity of the MLP; geglu, swiglu, reglu, glu and bilinear make it gated."
    )
    bias_gelu_fusion: bool = Field(
        False, description="With activation gelu: its tanh approximation, as GPT-NeoX's fused kernel."
    )
    no_weight_tying: bool = Field(False, description="true: the output head has weights of its own.")
    logits_soft_cap: float | None = Field(
        None, gt=0, description="Keeps logits within +-this: cap * tanh(logits / cap) (Gemma 2 uses 30)."
    )
    z_loss: NotNegative = Field(
        0.0, description="Weight of the squared log of the softmax's denominator in the gradient (PaLM uses 1e-4)."
    )
    attention_config: list[Any] | None = Field(
        None, description="Kind of attention per layer; only [[[global], num_layers]]."
    )
    hidden_dropout: Dropout = Field(0.0, description="Dropout on the residual branches.")
    attention_dropout: Dropout = Field(0.0, description="Dropout on attention weights.")


class PositionArgs(Group):
    """How positions enter."""

    pos_emb: Annotated[Literal["learned", "rotary", "sinusoidal", "rpe", "alibi", "none"], AnyCase] = Field(
        "learned", description="Position information."
    )
    rotary_pct: float = Field(1.0, gt=0, le=1, description="Share of each head that is rotated.")
    rotary_emb_base: Positive = Field(10000, description="Base of the rotary frequencies.")
    rope_scaling: RopeScalingBlock | None = Field(
        None, description="Rotary frequencies for longer texts: rope_type, factor, ... named as in transformers."
    )
    opt_pos_emb_offset: Count = Field(0, description="Shift of learned positions (OPT).")


class InitArgs(Group):
    """Initial weights: a function of seed and weight name, equal for every layout."""

    init_method: Annotated[InitMethod, AnyCase] = Field("normal", description="Initial values of input-side weights.")
    output_layer_init_method: Annotated[InitMethod, AnyCase] = Field(
        "scaled_normal", description="Initial values of the weights that write to the residual."
    )
    init_method_std: float = Field(0.02, gt=0, description="Standard deviation of the normal initial values.")

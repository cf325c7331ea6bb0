"""The few values a model is built from, and where they come from in the arguments."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from megatron.errors import SettingsError
from megatron.model.activations import GATED
from megatron.neox_arguments.optimization_settings import MupSettings
from sepllm.attention.rope_scaling import RopeScaling
from sepllm.attention.separators import separator_ids
from sepllm.config import SepConfig

if TYPE_CHECKING:
    from megatron.neox_arguments.arguments import NeoXArgs
    from megatron.tokenizer.tokenizer import Tokenizer


@dataclass(frozen=True)
class ModelConfig:
    """A model, whatever its layout over ranks. Names as in the YAML where they mean the same.

    attention: what each layer's attention keeps. attention_path, softmax and its biases go to
    `separator_attention` as they are. end_of_document: id that ends a document, where attention stays within
    documents, or None. bipe_separators: ids that close a segment (bilevel positions), or None.
    activation: GPT-NeoX's names, and "gelu_pytorch_tanh" (transformers' name) for its fused gelu.
    mup: factors by width (arXiv 2203.03466), or None.
    mlp_gated: the MLP is w2(act(w1 x) * w3 x), without biases. position_offset: added to learned positions.
    head_size: of one head, None for hidden_size / num_attention_heads. logits_soft_cap: c of c tanh(logits / c), or
    None. z_loss: weight of the squared log of the softmax's denominator in the training loss.
    """

    num_layers: int
    hidden_size: int
    num_attention_heads: int
    num_kv_heads: int
    mlp_hidden_size: int
    padded_vocab_size: int
    max_position_embeddings: int
    attention: SepConfig
    attention_path: str = "auto"
    end_of_document: int | None = None
    softmax: str = "softmax"
    softmax_numerator_bias: float = 0.0
    softmax_denominator_bias: float = 1e-10
    norm: str = "layernorm"
    norm_epsilon: float = 1e-5
    norm_bias: bool = True
    qk_layernorm: bool = False
    pos_emb: str = "rotary"
    rotary_pct: float = 1.0
    rotary_base: float = 10000.0
    rope_scaling: RopeScaling | None = None
    position_offset: int = 0
    bipe_separators: tuple[int, ...] | None = None
    activation: str = "gelu"
    mlp_gated: bool = False
    attention_bias: bool = True
    attention_dense_bias: bool = True
    mlp_bias: bool = True
    head_size: int | None = None
    parallel_residual: bool = False
    shared_residual_norm: bool = False
    tied_embeddings: bool = False
    logits_soft_cap: float | None = None
    z_loss: float = 0.0
    hidden_dropout: float = 0.0
    attention_dropout: float = 0.0
    init_method: str = "normal"
    output_init_method: str = "scaled_normal"
    init_std: float = 0.02
    mup: MupSettings | None = None
    seed: int = 1234

    @property
    def head_dim(self) -> int:
        return self.head_size or self.hidden_size // self.num_attention_heads

    @property
    def attention_scale(self) -> float | None:
        """Factor on query-key products; None is the usual 1 / sqrt(head_dim), which muP meets at the base's width."""
        if self.mup is None:
            return None
        return math.sqrt(self.mup.base_head_dim) / self.head_dim / self.mup.attention_temperature

    @property
    def embedding_multiplier(self) -> float:
        """Factor on word embeddings."""
        return self.mup.embedding_multiplier if self.mup else 1.0

    @property
    def logit_multiplier(self) -> float:
        """Factor on logits."""
        return 1 / (self.mup.width * self.mup.output_temperature) if self.mup else 1.0

    @property
    def rotary_dim(self) -> int:
        """Leading dimensions of each head that are rotated; even."""
        return int(self.head_dim * self.rotary_pct) // 2 * 2

    @property
    def has_position_table(self) -> bool:
        """Learned positions, or the learned place inside a segment of bilevel positions."""
        return self.pos_emb == "learned" or self.bipe_separators is not None


def check_layout(config: ModelConfig, tp_size: int) -> None:
    """Raise SettingsError unless heads, MLP and vocabulary can be cut over tp_size tensor ranks."""
    parts = {
        "num_attention_heads": config.num_attention_heads,
        "num_kv_heads": config.num_kv_heads,
        "the MLP's inner width": config.mlp_hidden_size,
        "the padded vocabulary": config.padded_vocab_size,
    }
    for name, size in parts.items():
        if size % tp_size:
            raise SettingsError(
                f"{name} is {size}, which {tp_size} tensor ranks cannot share evenly. "
                f"Set model_parallel_size to a divisor of {size}, or change {name}."
            )
    if config.num_attention_heads % config.num_kv_heads:
        raise SettingsError(
            f"{config.num_attention_heads} query heads cannot share {config.num_kv_heads} key/value heads evenly. "
            "Set num_kv_heads to a divisor of num_attention_heads."
        )
    if config.head_size is None and config.hidden_size % config.num_attention_heads:
        raise SettingsError(
            f"hidden_size {config.hidden_size} is not a multiple of num_attention_heads {config.num_attention_heads}."
        )


def separator_ids_from_args(args: "NeoXArgs", tokenizer: "Tokenizer") -> tuple[int, ...] | None:
    """Ids of the strings in `separators`; None where the settings give ids, or none are needed.

    Raises sepllm's ConfigError for a string that is not a single token.
    """
    strings = args.derived.separators
    return tuple(separator_ids(tokenizer.tokenize, strings)) if strings else None


def end_of_document_from_args(args: "NeoXArgs", tokenizer: "Tokenizer") -> int | None:
    """The id at which documents end, where the settings ask for a document mask."""
    return tokenizer.eod if args.attention_document_mask else None


def model_config_from_args(
    args: "NeoXArgs",
    padded_vocab_size: int,
    separator_ids: Sequence[int] | None = None,
    end_of_document: int | None = None,
) -> ModelConfig:
    """The model that the arguments describe.

    separator_ids: ids of the separators when the arguments give them as strings; None takes the given ids.
    end_of_document: see `end_of_document_from_args`.
    """
    derived = args.derived
    attention = args.sep_config(separator_ids)
    segment_ends = derived.bipe_separators
    epsilon = {
        "layernorm": args.layernorm_epsilon,
        "rmsnorm": args.rms_norm_epsilon,
        "scalenorm": args.scalenorm_epsilon,
    }
    return ModelConfig(
        num_layers=args.num_layers,
        hidden_size=args.hidden_size,
        num_attention_heads=args.num_attention_heads,
        num_kv_heads=derived.num_kv_heads,
        mlp_hidden_size=derived.mlp_hidden_size,
        padded_vocab_size=padded_vocab_size,
        max_position_embeddings=args.max_position_embeddings,
        attention=attention,
        attention_path=derived.attention_path,
        end_of_document=end_of_document,
        softmax=derived.softmax,
        softmax_numerator_bias=derived.softmax_numerator_bias,
        softmax_denominator_bias=derived.softmax_denominator_bias,
        norm=args.norm,
        norm_epsilon=epsilon[args.norm],
        norm_bias=args.use_bias_in_norms,
        qk_layernorm=args.use_qk_layernorm,
        pos_emb=args.pos_emb,
        rotary_pct=args.rotary_pct,
        rotary_base=args.rotary_emb_base,
        rope_scaling=_rope_scaling(args),
        position_offset=args.opt_pos_emb_offset,
        bipe_separators=tuple(attention.separators) if segment_ends == "separators" else segment_ends,
        activation="gelu_pytorch_tanh" if args.activation == "gelu" and args.bias_gelu_fusion else args.activation,
        mlp_gated=args.mlp_type == "llama" or args.activation in GATED,
        attention_bias=args.use_bias_in_attn_linear,
        attention_dense_bias=(
            args.use_bias_in_attn_linear if args.use_bias_in_attn_dense is None else args.use_bias_in_attn_dense
        ),
        mlp_bias=args.use_bias_in_mlp,
        head_size=args.head_dim,
        parallel_residual=args.gpt_j_residual,
        shared_residual_norm=args.gpt_j_residual and args.gpt_j_tied,
        tied_embeddings=not args.no_weight_tying,
        logits_soft_cap=args.logits_soft_cap,
        z_loss=args.z_loss,
        hidden_dropout=args.hidden_dropout,
        attention_dropout=args.attention_dropout,
        init_method=args.init_method,
        output_init_method=args.output_layer_init_method,
        init_std=args.init_method_std,
        mup=derived.mup,
        seed=args.seed,
    )


def _rope_scaling(args: "NeoXArgs") -> RopeScaling | None:
    block = args.rope_scaling
    if block is None:
        return None
    return RopeScaling(
        kind=block.rope_type,
        factor=block.factor,
        original_length=block.original_max_position_embeddings or args.max_position_embeddings,
        attention_factor=block.attention_factor,
        beta_fast=block.beta_fast,
        beta_slow=block.beta_slow,
        truncate=block.truncate,
        low_frequency=block.low_freq_factor,
        high_frequency=block.high_freq_factor,
    )

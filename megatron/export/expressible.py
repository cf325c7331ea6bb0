"""What an exported folder can say about a model; the rest is refused by name, never dropped in silence.

Our own classes say everything but windows that change while generating. Stock classes say much less.
"""

from collections.abc import Callable
from dataclasses import dataclass

from megatron.errors import SettingsError
from megatron.export.mup_folding import factors_fit
from megatron.model.config import ModelConfig
from sepllm.errors import did_you_mean

# Activations by GPT-NeoX's names -> those of transformers that compute the same (of gated units: on the gate).
ACTIVATIONS = {
    "gelu": "gelu",
    "gelu_pytorch_tanh": "gelu_pytorch_tanh",
    "relu": "relu",
    "swish": "silu",
    "silu": "silu",
    "mish": "mish",
    "softsign": "softsign",
    "geglu": "gelu",
    "swiglu": "silu",
    "reglu": "relu",
    "glu": "sigmoid",
    "bilinear": "linear",
}
_STOCK_SCALING = ("linear", "yarn", "llama3")


@dataclass(frozen=True)
class Architecture:
    """A form of export. model_type: of config.json. family: names of its tensors. class_name: that loads it.

    check: what it cannot express; None: our own classes, which express everything. automatic: whether "auto" may take
    it; not where transformers puts a tokenizer of its own in the place of the folder's.
    """

    model_type: str
    family: str
    class_name: str
    check: "Callable[[ModelConfig], list[Obstacle]] | None" = None
    automatic: bool = True

    @property
    def is_ours(self) -> bool:
        return self.check is None


@dataclass(frozen=True)
class Obstacle:
    """A setting that the target cannot express, and why."""

    setting: str
    reason: str


def choose_architecture(config: ModelConfig, name: str, decode_windows: tuple[int, ...] | None) -> Architecture:
    """The architecture called `name`, able to express the model; "auto" takes a stock class where one can.

    decode_windows: one window per layer for cached decoding where it differs from the training window.
    Raises SettingsError listing every obstacle.
    """
    if name != "auto" and name not in ARCHITECTURES:
        raise SettingsError(
            f"architecture {name!r} is unknown; known are auto, {', '.join(ARCHITECTURES)} (--architecture). "
            f"{did_you_mean(name, ARCHITECTURES)}"
        )
    if name == "auto":
        name = _automatic(config)
    found = _changing_windows(decode_windows) + _obstacles(config, ARCHITECTURES[name])
    if found:
        listed = "\n".join(f"  {obstacle.setting}: {obstacle.reason}" for obstacle in found)
        raise SettingsError(
            f"This model cannot be written as {name}: the folder would compute something else.\n{listed}"
        )
    return ARCHITECTURES[name]


def _automatic(config: ModelConfig) -> str:
    stock = [
        name
        for name, known in ARCHITECTURES.items()
        if known.check is not None and known.automatic and not known.check(config)
    ]
    like_llama = config.norm == "rmsnorm" and config.mlp_gated and not config.parallel_residual
    return stock[0] if stock else "sepllm_llama" if like_llama else "sepllm_gpt_neox"


def _obstacles(config: ModelConfig, architecture: Architecture) -> list[Obstacle]:
    return [] if architecture.check is None else architecture.check(config)


def _changing_windows(decode_windows: tuple[int, ...] | None) -> list[Obstacle]:
    if decode_windows is None:
        return []
    reason = (
        "the exported model has one window per layer, for reading and generating alike; "
        "remove generate_local_window_size and its list to export it with the training windows"
    )
    return [Obstacle(f"generate windows {decode_windows}", reason)]


def _stock(config: ModelConfig, who: str) -> list[tuple[bool, str, str]]:
    """What no class of transformers expresses."""
    scaling = config.rope_scaling if config.pos_emb == "rotary" else None
    ours = "use --architecture sepllm_gpt_neox or sepllm_llama"
    return [
        (
            config.attention.mode != "full",
            f"attention mode {config.attention.mode}",
            f"stock {who} attends to everything; {ours}",
        ),
        (
            config.end_of_document is not None,
            "attention_document_mask",
            f"stock {who} attends across the ends of documents; {ours}",
        ),
        (config.pos_emb != "rotary", f"pos_emb {config.pos_emb}", f"stock {who} is rotary"),
        (config.bipe_separators is not None, "USE_BiPE", f"stock {who} has one position per token"),
        (config.softmax != "softmax", f"softmax {config.softmax}", f"stock {who} uses the ordinary softmax"),
        (config.logits_soft_cap is not None, "logits_soft_cap", f"the logits of stock {who} are not capped"),
        (
            not factors_fit(config),
            "use_mup",
            f"for stock {who} its factors go into the weights, and a table tied to the head, or queries with a norm, "
            "cannot take them",
        ),
        (config.shared_residual_norm, "gpt_j_tied", f"each branch of stock {who} has a norm of its own"),
        (
            config.activation not in ACTIVATIONS or config.activation == "softsign",
            f"activation {config.activation}",
            "transformers has no function of that name",
        ),
        (
            scaling is not None and scaling.kind not in _STOCK_SCALING,
            f"rope_scaling {scaling.kind if scaling else ''}",
            f"transformers knows {', '.join(_STOCK_SCALING)}",
        ),
    ]


def _neox(config: ModelConfig) -> list[Obstacle]:
    odd = int(config.head_dim * config.rotary_pct) != config.rotary_dim
    return _present(
        [
            *_stock(config, "gpt_neox"),
            (config.norm != "layernorm", f"norm {config.norm}", "GPT-NeoX's layers have layernorm"),
            (not config.norm_bias, "use_bias_in_norms false", "GPT-NeoX's layernorm has a bias"),
            (config.qk_layernorm, "use_qk_layernorm", "GPT-NeoX has no norm on queries and keys"),
            (config.mlp_gated, "gated MLP", "GPT-NeoX's MLP has two matrices"),
            (not config.mlp_bias and not config.mlp_gated, "use_bias_in_mlp false", "GPT-NeoX's MLP has biases"),
            (
                config.attention_dense_bias != config.attention_bias,
                f"use_bias_in_attn_dense {str(config.attention_dense_bias).lower()}",
                "GPT-NeoX's attention has biases in both projections or in none",
            ),
            (
                config.head_dim * config.num_attention_heads != config.hidden_size,
                f"head_dim {config.head_dim}",
                "GPT-NeoX's heads share hidden_size evenly",
            ),
            (
                config.num_kv_heads != config.num_attention_heads,
                f"num_kv_heads {config.num_kv_heads}",
                f"GPT-NeoX's {config.num_attention_heads} heads have keys and values of their own",
            ),
            (odd, f"rotary_pct {config.rotary_pct}", "stock gpt_neox would rotate an odd number of dimensions"),
        ]
    )


def _llama_like(
    who: str, *, bias: bool | None, out_bias: bool | None, qk_norm: bool
) -> Callable[[ModelConfig], list[Obstacle]]:
    """The check of one class of LLaMA's family. bias, out_bias: that it has; None: as told, the same for both."""

    def check(config: ModelConfig) -> list[Obstacle]:
        given, given_out = config.attention_bias, config.attention_dense_bias
        same_bias = given_out == given if bias is None else (given, given_out) == (bias, out_bias)
        return _present(
            [
                *_stock(config, who),
                (config.norm != "rmsnorm", f"norm {config.norm}", f"stock {who} has rmsnorm"),
                (
                    not config.mlp_gated,
                    f"MLP of two matrices ({config.activation})",
                    f"stock {who}'s MLP is gated (mlp_type llama)",
                ),
                (config.parallel_residual, "gpt_j_residual", f"stock {who} has one branch after the other"),
                (config.rotary_pct != 1.0, f"rotary_pct {config.rotary_pct}", f"stock {who} rotates whole heads"),
                (config.head_dim % 2 == 1, f"head_dim {config.head_dim}", f"stock {who} rotates whole heads"),
                (config.hidden_dropout > 0, f"hidden_dropout {config.hidden_dropout}", f"stock {who} has none"),
                (
                    config.qk_layernorm != qk_norm,
                    f"use_qk_layernorm {str(config.qk_layernorm).lower()}",
                    f"stock {who} has {'a' if qk_norm else 'no'} norm on queries and keys",
                ),
                (
                    not same_bias,
                    f"attention biases ({str(given).lower()}, after attention {str(given_out).lower()})",
                    f"stock {who} has them " + _bias_words(bias, out_bias),
                ),
            ]
        )

    return check


def _bias_words(bias: bool | None, out_bias: bool | None) -> str:
    if bias is None:
        return "in all projections or in none"
    return f"{'in' if bias else 'neither in'} queries, keys and values{', not' if bias else ' nor'} after attention"


def _present(checks: list[tuple[bool, str, str]]) -> list[Obstacle]:
    return [Obstacle(setting, reason) for present, setting, reason in checks if present]


# "auto" takes the first stock class that fits.
ARCHITECTURES = {
    "sepllm_gpt_neox": Architecture("sepllm_gpt_neox", "gpt_neox", "SepLLMGPTNeoXForCausalLM"),
    "sepllm_llama": Architecture("sepllm_llama", "llama", "SepLLMLlamaForCausalLM"),
    "neox": Architecture("gpt_neox", "gpt_neox", "GPTNeoXForCausalLM", _neox),
    "llama": Architecture(
        "llama", "llama", "LlamaForCausalLM", _llama_like("llama", bias=None, out_bias=None, qk_norm=False)
    ),
    "mistral": Architecture(
        "mistral", "llama", "MistralForCausalLM", _llama_like("mistral", bias=False, out_bias=False, qk_norm=False)
    ),
    "qwen2": Architecture(
        "qwen2",
        "llama",
        "Qwen2ForCausalLM",
        _llama_like("qwen2", bias=True, out_bias=False, qk_norm=False),
        automatic=False,
    ),
    "qwen3": Architecture(
        "qwen3", "llama", "Qwen3ForCausalLM", _llama_like("qwen3", bias=None, out_bias=None, qk_norm=True)
    ),
}

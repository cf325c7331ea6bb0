"""Configuration of the models with separator attention, as written into exported folders.

The dictionary `sepllm` states the rule in full; nothing about it is implied by defaults of this file.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from transformers import PretrainedConfig

from sepllm.attention.rope_scaling import RopeScaling

_MODES = ("full", "sepllm", "streaming", "fixed")
_CHOICES = {
    "norm": ("layernorm", "rmsnorm", "scalenorm"),
    "position_embedding": ("rotary", "learned", "sinusoidal", "alibi", "none"),
}
_SOFTMAX = {"kind": "softmax", "numerator_bias": 0.0, "denominator_bias": 1e-10}
_RULE_KEYS = {
    "mode",
    "separator_token_ids",
    "init_tokens",
    "window",
    "interval",
    "max_separators",
    "capacity",
    "init_per_document",
}


@dataclass(frozen=True)
class SeparatorRule:
    """Which keys a query may look at; the shape of argument that `rule.py` asks for."""

    mode: str
    separators: tuple[int, ...]
    init_tokens: int
    window: int | tuple[int, ...]
    interval: int | tuple[int, ...] | None
    max_separators: int | None
    capacity: int | None
    init_per_document: bool

    def window_for(self, layer: int) -> int:
        return self.window[layer] if isinstance(self.window, tuple) else self.window

    def interval_for(self, layer: int) -> int | None:
        return self.interval[layer] if isinstance(self.interval, tuple) else self.interval


class SepLLMConfig(PretrainedConfig):
    """GPT-NeoX's keys of transformers, those of LLaMA's family that it lacks, and `sepllm`.

    sepllm: {"mode": full|sepllm|streaming|fixed, "init_tokens": a, "window": n or one per layer,
        "separator_token_ids": [...], "interval": for fixed, "max_separators": s or null, "capacity": c or null,
        "init_per_document": bool}. Loading with `sepllm={...}` replaces the whole dictionary, hence the whole rule.
    end_of_document: id that ends a document, where attention stays within documents, or null.
    bilevel_separators: ids that close a segment (BiPE), or null. position_offset: added to learned positions.
    rotary_scaling: fields of RopeScaling, or null. softmax: {"kind": softmax|sa|no_denominator, and two biases}.
    gated_mlp: act(x W1) * (x W3) instead of act(x W1). attention_out_bias: of the projection after attention.
    shared_residual_norm: parallel branches read one norm. attention_scale: of scores, null: 1 / sqrt(head_dim).
    embedding_multiplier, logit_multiplier: muP's factors.
    """

    keys_to_ignore_at_inference = ("past_key_values",)

    def __init__(
        self,
        vocab_size: int = 50432,
        hidden_size: int = 768,
        num_hidden_layers: int = 12,
        num_attention_heads: int = 12,
        num_key_value_heads: int | None = None,
        head_dim: int | None = None,
        intermediate_size: int = 3072,
        hidden_act: str = "gelu",
        gated_mlp: bool = False,
        mlp_bias: bool = True,
        attention_bias: bool = True,
        attention_out_bias: bool | None = None,
        qk_norm: bool = False,
        norm: str = "layernorm",
        norm_bias: bool = True,
        layer_norm_eps: float = 1e-5,
        use_parallel_residual: bool = True,
        shared_residual_norm: bool = False,
        position_embedding: str = "rotary",
        position_offset: int = 0,
        rotary_pct: float | None = None,
        rotary_emb_base: float | None = None,
        rotary_scaling: dict[str, Any] | None = None,
        rope_parameters: dict[str, Any] | None = None,
        bilevel_separators: Sequence[int] | None = None,
        softmax: dict[str, Any] | None = None,
        attention_scale: float | None = None,
        embedding_multiplier: float = 1.0,
        logit_multiplier: float = 1.0,
        logits_soft_cap: float | None = None,
        attention_dropout: float = 0.0,
        hidden_dropout: float = 0.0,
        max_position_embeddings: int = 2048,
        initializer_range: float = 0.02,
        end_of_document: int | None = None,
        sepllm: dict[str, Any] | None = None,
        use_cache: bool = True,
        tie_word_embeddings: bool = False,
        **kwargs: Any,
    ) -> None:
        self.vocab_size = vocab_size
        self.hidden_size = hidden_size
        self.num_hidden_layers = num_hidden_layers
        self.num_attention_heads = num_attention_heads
        self.num_key_value_heads = num_key_value_heads or num_attention_heads
        self.head_dim = head_dim or hidden_size // num_attention_heads
        self.intermediate_size = intermediate_size
        self.hidden_act = hidden_act
        self.gated_mlp = gated_mlp
        self.mlp_bias = mlp_bias
        self.attention_bias = attention_bias
        self.attention_out_bias = attention_bias if attention_out_bias is None else attention_out_bias
        self.qk_norm = qk_norm
        self.norm = _one_of("norm", norm)
        self.norm_bias = norm_bias
        self.layer_norm_eps = layer_norm_eps
        self.use_parallel_residual = use_parallel_residual
        self.shared_residual_norm = shared_residual_norm
        self.position_embedding = _one_of("position_embedding", position_embedding)
        self.position_offset = position_offset
        # transformers 4 reads rotary_pct and rotary_emb_base, transformers 5 writes rope_parameters: keep both.
        rope = rope_parameters or {}
        self.rotary_pct = _first(rotary_pct, rope.get("partial_rotary_factor"), 0.25)
        self.rotary_emb_base = _first(rotary_emb_base, rope.get("rope_theta"), 10000.0)
        self.rope_parameters = {
            "rope_type": "default",
            "rope_theta": self.rotary_emb_base,
            "partial_rotary_factor": self.rotary_pct,
        }
        self.rotary_scaling = rotary_scaling
        self.bilevel_separators = bilevel_separators
        self.softmax: dict[str, Any] = _SOFTMAX | (softmax or {})
        self.attention_scale = attention_scale
        self.embedding_multiplier = embedding_multiplier
        self.logit_multiplier = logit_multiplier
        self.logits_soft_cap = logits_soft_cap
        self.attention_dropout = attention_dropout
        self.hidden_dropout = hidden_dropout
        self.max_position_embeddings = max_position_embeddings
        self.initializer_range = initializer_range
        self.end_of_document = end_of_document
        self.sepllm = (
            {"mode": "full", "init_tokens": 0, "window": max_position_embeddings} if sepllm is None else sepllm
        )
        self.use_cache = use_cache
        super().__init__(**{"tie_word_embeddings": tie_word_embeddings, **kwargs})

    @property
    def rotary_dim(self) -> int:
        """Leading dimensions of each head that are rotated; even."""
        return int(self.head_dim * self.rotary_pct) // 2 * 2

    @property
    def rope_scaling_settings(self) -> RopeScaling | None:
        return None if self.rotary_scaling is None else RopeScaling(**self.rotary_scaling)

    @property
    def has_position_table(self) -> bool:
        """Learned positions, or the learned place inside a segment of bilevel positions."""
        return self.position_embedding == "learned" or self.bilevel_separators is not None

    def needs_of_whole_text(self) -> list[str]:
        """Why tokens that a cache dropped would be missed, whatever it says of the distances of those it kept."""
        needs = {
            "Self-Adjusting softmax looks at the scores of all tokens": self.softmax["kind"] != "softmax",
            "BiPE counts segments": self.bilevel_separators is not None,
            "attention stays within documents": self.end_of_document is not None,
        }
        return [need for need, present in needs.items() if present]

    def separator_rule(self) -> SeparatorRule:
        """The dictionary `sepllm`, checked. Raises ValueError naming what is unknown, missing or out of range."""
        given = dict(self.sepllm)
        unknown = sorted(set(given) - _RULE_KEYS)
        if unknown:
            raise ValueError(f"Unknown keys {unknown} in the config's `sepllm`; known are {sorted(_RULE_KEYS)}.")
        mode = given.get("mode", "sepllm")
        if mode not in _MODES:
            raise ValueError(f"sepllm.mode is {mode!r}; expected one of {_MODES}.")
        needed = {"sepllm": ["separator_token_ids"], "fixed": ["interval"]}.get(mode, [])
        missing = [key for key in ["init_tokens", "window", *needed] if given.get(key) is None]
        if missing:
            raise ValueError(f"The config's `sepllm` lacks {missing}, which mode {mode!r} needs.")
        return SeparatorRule(
            mode=mode,
            separators=tuple(given.get("separator_token_ids") or ()),
            init_tokens=_at_least(0, given["init_tokens"], "init_tokens"),
            window=self._per_layer(given["window"], "window"),
            interval=None if given.get("interval") is None else self._per_layer(given["interval"], "interval"),
            max_separators=given.get("max_separators"),
            capacity=given.get("capacity"),
            init_per_document=given.get("init_per_document", True),
        )

    def _per_layer(self, value: int | Sequence[int], key: str) -> int | tuple[int, ...]:
        if isinstance(value, int):
            return _at_least(1, value, key)
        if len(value) != self.num_hidden_layers:
            raise ValueError(f"sepllm.{key} has {len(value)} entries for {self.num_hidden_layers} layers.")
        return tuple(_at_least(1, entry, key) for entry in value)


class SepLLMGPTNeoXConfig(SepLLMConfig):
    """A model whose weights are named as GPT-NeoX's."""

    model_type = "sepllm_gpt_neox"
    __init__ = SepLLMConfig.__init__  # or transformers 5 would make one of its own


class SepLLMLlamaConfig(SepLLMConfig):
    """A model whose weights are named as LLaMA's."""

    model_type = "sepllm_llama"
    __init__ = SepLLMConfig.__init__  # or transformers 5 would make one of its own


def _one_of(key: str, value: str) -> str:
    if value not in _CHOICES[key]:
        raise ValueError(f"{key} is {value!r}; expected one of {', '.join(_CHOICES[key])}.")
    return value


def _at_least(least: int, value: int, key: str) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise ValueError(f"sepllm.{key} is {value!r}; expected a whole number >= {least}.")
    return value


def _first(*values: Any) -> Any:
    return next(value for value in values if value is not None)

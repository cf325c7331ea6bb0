"""Configuration of a GPT-NeoX-shaped model with separator attention, as written into exported folders.

The dictionary `sepllm` states the rule in full; nothing about it is implied by defaults of this file.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from transformers import PretrainedConfig

_MODES = ("full", "sepllm", "streaming", "fixed")
_RULE_KEYS = {
    "mode",
    "separator_token_ids",
    "init_tokens",
    "window",
    "interval",
    "max_separators",
    "capacity",
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
    init_per_document: bool = True  # rows of this model are one document

    def window_for(self, layer: int) -> int:
        return self.window[layer] if isinstance(self.window, tuple) else self.window

    def interval_for(self, layer: int) -> int | None:
        return self.interval[layer] if isinstance(self.interval, tuple) else self.interval


class SepLLMGPTNeoXConfig(PretrainedConfig):
    """The GPT-NeoX keys of transformers, the rotary settings in both spellings, and `sepllm`.

    sepllm: {"mode": full|sepllm|streaming|fixed, "init_tokens": a, "window": n or one per layer,
        "separator_token_ids": [...], "interval": for fixed, "max_separators": s or null, "capacity": c or null}.
        Loading with `sepllm={...}` replaces the whole dictionary, hence the whole rule.
    """

    model_type = "sepllm_gpt_neox"
    keys_to_ignore_at_inference = ("past_key_values",)

    def __init__(
        self,
        vocab_size: int = 50432,
        hidden_size: int = 768,
        num_hidden_layers: int = 12,
        num_attention_heads: int = 12,
        intermediate_size: int = 3072,
        hidden_act: str = "gelu",
        attention_dropout: float = 0.0,
        hidden_dropout: float = 0.0,
        max_position_embeddings: int = 2048,
        initializer_range: float = 0.02,
        layer_norm_eps: float = 1e-5,
        attention_bias: bool = True,
        use_parallel_residual: bool = True,
        position_embedding: str = "rotary",
        rotary_pct: float | None = None,
        rotary_emb_base: float | None = None,
        rope_parameters: dict[str, Any] | None = None,
        sepllm: dict[str, Any] | None = None,
        use_cache: bool = True,
        tie_word_embeddings: bool = False,
        **kwargs: Any,
    ) -> None:
        self.vocab_size = vocab_size
        self.hidden_size = hidden_size
        self.num_hidden_layers = num_hidden_layers
        self.num_attention_heads = num_attention_heads
        self.intermediate_size = intermediate_size
        self.hidden_act = hidden_act
        self.attention_dropout = attention_dropout
        self.hidden_dropout = hidden_dropout
        self.max_position_embeddings = max_position_embeddings
        self.initializer_range = initializer_range
        self.layer_norm_eps = layer_norm_eps
        self.attention_bias = attention_bias
        self.use_parallel_residual = use_parallel_residual
        self.position_embedding = position_embedding
        # transformers 4 reads rotary_pct and rotary_emb_base, transformers 5 writes rope_parameters: keep both.
        rope = rope_parameters or {}
        self.rotary_pct = _first(rotary_pct, rope.get("partial_rotary_factor"), 0.25)
        self.rotary_emb_base = _first(rotary_emb_base, rope.get("rope_theta"), 10000.0)
        self.rope_parameters = {
            "rope_type": "default",
            "rope_theta": self.rotary_emb_base,
            "partial_rotary_factor": self.rotary_pct,
        }
        self.sepllm = (
            {"mode": "full", "init_tokens": 0, "window": max_position_embeddings} if sepllm is None else sepllm
        )
        self.use_cache = use_cache
        super().__init__(**{"tie_word_embeddings": tie_word_embeddings, **kwargs})

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
        )

    def _per_layer(self, value: int | Sequence[int], key: str) -> int | tuple[int, ...]:
        if isinstance(value, int):
            return _at_least(1, value, key)
        if len(value) != self.num_hidden_layers:
            raise ValueError(f"sepllm.{key} has {len(value)} entries for {self.num_hidden_layers} layers.")
        return tuple(_at_least(1, entry, key) for entry in value)


def _at_least(least: int, value: int, key: str) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise ValueError(f"sepllm.{key} is {value!r}; expected a whole number >= {least}.")
    return value


def _first(*values: Any) -> Any:
    return next(value for value in values if value is not None)

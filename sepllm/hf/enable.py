"""Separator attention in a causal language model of transformers, without touching its code or weights.

handle = enable(model, config)
...
handle.remove()
"""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers.cache_utils import Cache, DynamicCache, DynamicLayer

from sepllm.attention.interface import separator_attention
from sepllm.attention.plan import Plan, build_plans
from sepllm.cache.model_hook import Connection, connect
from sepllm.cache.step import plan_mask
from sepllm.config import SepConfig
from sepllm.errors import ConfigError, UnsupportedError
from sepllm.hf.training_free import load_training_free


def enable(model: nn.Module, config: SepConfig | str | Path, route: str = "auto") -> "Handle":
    """Let every pass of the model follow the rule, in training, scoring and generation.

    model: a causal language model of transformers >= 4.56. Its caches stay whole: see SepCache to shrink them.
    config: the rule, or a YAML file in the original's key names (configs/training_free).
    route: "attention" replaces the attention function, at the cost of what the rule keeps; "mask" gives the model
        a mask, new x seen bytes a row; "auto" takes the first where the model has it.
    Raises UnsupportedError with the reason where the rule could not be exact, ConfigError for settings that do not
    fit the model.
    """
    connection = connect(model, route)
    if connection.rule is not None:
        raise ConfigError(f"Separator attention is already enabled in this {type(model).__name__}. Remove it first.")
    layers = connection.model.config.get_text_config().num_hidden_layers
    if not isinstance(config, SepConfig):
        config = load_training_free(config, layers)
    for name in ("window", "interval"):
        value = getattr(config, name)
        if isinstance(value, tuple) and len(value) != layers:
            raise ConfigError(f"{name} has {len(value)} entries, and the model {layers} layers.")
    connection.rule = _Rule(config, connection)
    return Handle(connection, config)


class Handle:
    """What enable() changed. Also a context manager: the rule ends with the block."""

    def __init__(self, connection: Connection, config: SepConfig) -> None:
        self.connection, self.config = connection, config

    @property
    def route(self) -> str:
        return self.connection.route

    def remove(self) -> None:
        """Give the model back as it was. Caches of SepCache.for_model go on working."""
        self.connection.rule = None
        if not self.connection.serves_caches:
            self.connection.remove()

    def __enter__(self) -> "Handle":
        return self

    def __exit__(self, *_: object) -> None:
        self.remove()


class RuleStep:
    """One pass under the mask rule. plans: one per layer, for all tokens so far; new: how many of them are queries."""

    def __init__(self, plans: list[Plan], new: int) -> None:
        self.plans, self.new = plans, new

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor, scale: float | None, dropout_p: float) -> Tensor:
        return separator_attention(q, k, v, self.plans[layer], scale=scale, dropout_p=dropout_p)

    def mask(self, layer: int) -> Tensor | None:
        return plan_mask(self.plans[layer], self.new)

    def position_ids(self) -> Tensor | None:
        return None


class _Rule:
    """Makes the step of a pass from the arguments of the decoder."""

    def __init__(self, config: SepConfig, connection: Connection) -> None:
        self.config, self.connection = config, connection
        self.layers = connection.model.config.get_text_config().num_hidden_layers

    def __call__(self, given: dict[str, Any], ids: Tensor, mask: Tensor | None) -> RuleStep:
        cache = self._cache(given)
        past = 0 if cache is None else cache.get_seq_length()
        all_ids, real = _history(cache, self.layers, past, ids, mask)
        plans = build_plans(self.config, all_ids, range(self.layers), _first_real(real))
        return RuleStep(plans, ids.shape[1])

    def _cache(self, given: dict[str, Any]) -> Cache | None:
        """The cache of the call. One that the model would make itself is made here, so that the ids go along."""
        cache = given.get("past_key_values")
        base: Any = self.connection.base
        if cache is None:
            wanted = given.get("use_cache")
            wanted = base.config.use_cache if wanted is None else wanted
            if not wanted or (base.training and getattr(base, "gradient_checkpointing", False)):
                return None
            cache = given["past_key_values"] = DynamicCache(config=base.config)
        if getattr(cache, "is_compileable", False) or not hasattr(cache, "layers"):
            raise UnsupportedError(
                f"{type(cache).__name__} does not grow with the text, so the rule cannot count its tokens. "
                "Leave cache_implementation out, or use SepCache.for_model(model)."
            )
        return cache


def _history(
    cache: Cache | None, index: int, past: int, ids: Tensor, mask: Tensor | None
) -> tuple[Tensor, Tensor | None]:
    """Token ids int64 and text flags bool (None: all text) of past and present, each [batch, past + new].

    They ride in the cache as one more layer (ids as keys, flags as values, [batch, 1, length, 1]), so that beams,
    repeats, crops and several turns treat them exactly as they treat the keys.
    """
    new = ids.shape[1]
    known_ids, real = ids, torch.ones_like(ids, dtype=torch.bool)
    if past:
        assert cache is not None
        layer: Any = cache.layers[index] if len(cache.layers) > index else None
        if layer is None or layer.get_seq_length() != past:
            raise ConfigError(
                f"past_key_values holds {past} tokens whose ids are not known: it was filled before the rule was "
                "enabled, or by another model. Start with an empty cache."
            )
        known_ids = torch.cat((layer.keys[:, 0, :, 0].to(ids.device), ids), dim=1)
        real = torch.cat((layer.values[:, 0, :, 0].bool().to(ids.device), real), dim=1)
    if mask is not None:
        if mask.shape[1] == past + new:
            real = mask.to(ids.device)
        elif mask.shape[1] == new:
            real = torch.cat((real[:, :past], mask.to(ids.device)), dim=1)
        else:
            raise UnsupportedError(
                f"attention_mask has {mask.shape[1]} columns for {past} cached and {new} new tokens; give it for all."
            )
    if cache is not None:
        while len(cache.layers) <= index:
            cache.layers.append(DynamicLayer())
        cache.layers[index].update(ids[:, None, :, None], real[:, None, past:, None])
    return known_ids, None if bool(real.all()) else real


def _first_real(real: Tensor | None) -> Tensor | None:
    """Column of the first text token of each row, int64 [batch]; None: no padding in front.

    Padding behind the text of the last pass is harmless, since nothing looks ahead; between texts it is refused.
    """
    if real is None:
        return None
    changes = (real[:, 1:] & ~real[:, :-1]).sum(dim=1) + real[:, 0].long()
    if bool((changes > 1).any()):
        raise UnsupportedError(
            "attention_mask hides tokens between texts of a row. Pad on the left: tokenizer.padding_side='left'."
        )
    first = real.int().argmax(dim=1)
    return torch.where(real.any(dim=1), first, real.shape[1])

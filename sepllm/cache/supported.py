"""Which models of transformers separator attention computes exactly, and why not the others."""

import inspect
import sys
from typing import Any

from torch import nn

from sepllm.config import SepConfig
from sepllm.errors import UnsupportedError

_REASONS = {
    "bloom": "its ALiBi biases are made from the padding mask, which the rule replaces",
    "mpt": "its ALiBi biases are made from the padding mask, which the rule replaces",
    "opt": "it counts positions in the padding mask, which the rule replaces",
    "gpt_neo": "its local layers have windows of their own",
    "gpt_oss": "its attention has sinks, and layers with windows of their own",
    "codegen": "its attention takes no mask of one's own",
}


def base_of(model: nn.Module) -> nn.Module:
    """The decoder below the language-model head."""
    base: Any = getattr(model, "base_model", model)
    return base.get_decoder() if hasattr(base, "get_decoder") and getattr(base, "decoder", None) is not None else base


def attention_layers(model: nn.Module) -> list[nn.Module]:
    """The attention modules in order of their layer_idx, one per layer."""
    found: dict[int, nn.Module] = {}
    for module in base_of(model).modules():
        index = getattr(module, "layer_idx", None)
        if isinstance(index, int) and "attention" in type(module).__name__.lower():
            found.setdefault(index, module)
    return [found[index] for index in sorted(found)]


def takes_sep_cache(model: Any) -> bool:
    """Whether the model has a rule of its own and tells a SepCache the ids itself, as those exported here do."""
    return bool(getattr(model, "takes_sep_cache", False))


def own_rule(model: Any) -> SepConfig:
    """The rule of a model that `takes_sep_cache`."""
    rule = model.config.separator_rule()
    names = ("separators", "init_tokens", "window", "max_separators", "interval", "mode", "init_per_document")
    return SepConfig(**{name: getattr(rule, name) for name in names})


def check_model(model: Any) -> None:
    """Raise UnsupportedError with the reason where the rule could not be exact."""
    name = type(model).__name__
    if takes_sep_cache(model):
        raise UnsupportedError(
            f"{name} has a rule of its own, in config.sepllm. To try another one, load it with sepllm={{...}}."
        )
    if not hasattr(model, "config") or not hasattr(model, "base_model"):
        raise UnsupportedError(f"{name} is no model of transformers; expected a causal language model of that library.")
    config = model.config.get_text_config()
    kind = getattr(config, "model_type", "")
    reason = _REASONS.get(kind)
    if getattr(model.config, "is_encoder_decoder", False):
        reason = "it has an encoder, and the rule is causal"
    elif getattr(config, "alibi", False):
        reason = _REASONS["bloom"]
    elif getattr(config, "attn_logit_softcapping", None):
        reason = "it caps the scores (attn_logit_softcapping), which these kernels do not"
    elif _own_windows(config):
        reason = (
            "it has layers with windows of their own (sliding_window or layer_types). Load it with "
            "config.sliding_window=None if you want those layers to follow the rule alone"
        )
    elif len(attention_layers(model)) != config.num_hidden_layers:
        reason = (
            f"{len(attention_layers(model))} of its {config.num_hidden_layers} layers have attention that is known here"
        )
    if reason is not None:
        raise UnsupportedError(f"Separator attention cannot be exact in {name} ({kind}): {reason}.")


def _own_windows(config: Any) -> bool:
    types = getattr(config, "layer_types", None)
    if types is not None:
        return any(kind != "full_attention" for kind in types)
    window = getattr(config, "sliding_window", None)
    return window is not None and getattr(config, "use_sliding_window", True)


def has_interface(model: nn.Module) -> bool:
    """Whether attention is looked up by name, and keyword arguments go all the way down to it."""
    if not hasattr(sys.modules[type(base_of(model)).__module__], "ALL_ATTENTION_FUNCTIONS"):
        return False
    attention = attention_layers(model)[0]
    holders = [part for part in base_of(model).modules() if attention in part.children()]
    return all(_takes_anything(part) for part in (base_of(model), attention, *holders))


def _takes_anything(module: nn.Module) -> bool:
    parameters = inspect.signature(type(module).forward).parameters.values()
    return any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in parameters)

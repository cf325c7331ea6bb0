"""A model exported by this project as the stock class of transformers: the same weights, and no rule of its own.

For everything that applies a rule from outside (streaming, SepCache, enable) and would otherwise apply two.
"""

from __future__ import annotations

from typing import Any

import torch

from sepllm.errors import UnsupportedError

_PREFIX = "sepllm_"
_TOLERANCE = 1e-3
# Options of our models with the values that stock classes take for granted.
_NEUTRAL = {
    "position_embedding": "rotary",
    "rotary_scaling": None,
    "bilevel_separators": None,
    "attention_scale": None,
    "embedding_multiplier": 1.0,
    "logit_multiplier": 1.0,
    "logits_soft_cap": None,
    "shared_residual_norm": False,
}
_LLAMA = {"norm": "rmsnorm", "gated_mlp": True, "use_parallel_residual": False, "rotary_pct": 1.0}
_HEADS = {"embed_out.weight": "lm_head.weight", "lm_head.weight": "embed_out.weight"}  # renamed between versions


def has_own_rule(model: Any) -> bool:
    """Whether the model decides by itself which tokens a token sees."""
    return str(model.config.model_type).startswith(_PREFIX)


def stock_model(model: Any) -> Any:
    """`model` itself where it is stock, else its weights in the stock class; the tensors are shared.

    Raises UnsupportedError where the stock class would compute something else, which a short forward shows.
    """
    if not has_own_rule(model):
        return model
    from transformers import AutoConfig, AutoModelForCausalLM

    kind, config = _stock_config(model.config.to_dict(), AutoConfig)
    with torch.device("meta"):
        stock = AutoModelForCausalLM.from_config(config)
    wanted = stock.state_dict()
    weights = {
        name if name in wanted else _HEADS.get(name, name): tensor for name, tensor in model.state_dict().items()
    }
    if set(weights) != set(wanted):
        odd = sorted(set(weights) ^ set(wanted))
        raise UnsupportedError(f"The stock {kind} of transformers has other weights than this model ({odd[0]}, ...).")
    stock = AutoModelForCausalLM.from_config(config).to(model.dtype)
    stock.load_state_dict(weights, assign=True)
    stock = stock.to(next(model.parameters()).device).eval()
    _check_equal(model, stock, kind)
    return stock


def _stock_config(given: dict[str, Any], auto_config: Any) -> tuple[str, Any]:
    """Model type and configuration of the stock class; UnsupportedError names an option that none has."""
    odd = [name for name, value in _NEUTRAL.items() if given.get(name, value) != value]
    odd += ["softmax"] if given.get("softmax", {}).get("kind", "softmax") != "softmax" else []
    like_llama = given["model_type"] == "sepllm_llama"
    if like_llama:
        odd += [name for name, value in _LLAMA.items() if given[name] != value]
    if odd:
        raise UnsupportedError(
            f"The stock classes of transformers compute something else with these weights: this model has "
            f"{', '.join(f'{name} {given[name]!r}' for name in odd)}, which only its own code knows."
        )
    own = {"model_type", "architectures", "auto_map", "sepllm", "transformers_version", "dtype", "torch_dtype"}
    keys = {name: value for name, value in given.items() if name not in own}
    kind = "gpt_neox"
    if like_llama:
        kind = "qwen3" if given["qk_norm"] else "llama"
        keys |= {"rms_norm_eps": given["layer_norm_eps"], "rope_theta": given["rotary_emb_base"]}
    return kind, auto_config.for_model(kind, **keys)


@torch.inference_mode()
def _check_equal(model: Any, stock: Any, kind: str) -> None:
    """A few tokens, so few that every rule with an initial token or two shows them all."""
    window = model.config.to_dict().get("sepllm", {}).get("window") or 16
    length = max(2, min(16, window if isinstance(window, int) else min(window)))
    ids = torch.arange(1, 1 + length, device=model.device)[None] % model.config.vocab_size
    difference = float((model(ids).logits.float() - stock(ids).logits.float()).abs().max())
    scale = 1.0 if model.dtype == torch.float32 else 100.0
    if difference > _TOLERANCE * scale:
        raise UnsupportedError(
            f"The stock {kind} of transformers computes something else with these weights (logits differ by "
            f"{difference:.2g}): this model has options that only its own code knows."
        )

"""How a stock model learns the rule: one hook before its decoder, which sees token ids, padding and cache.

Two routes. "attention": the model looks its attention function up by name, and gets ours, whose cost is what the
rule keeps. "mask": the rule reaches the model as a mask, which costs new x seen bytes a row; for models whose
attention cannot be replaced.
"""

import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from sepllm.cache.attention_function import DENSE, NAME, STEP, no_mask
from sepllm.cache.step import Step
from sepllm.cache.supported import attention_layers, base_of, check_model, has_interface
from sepllm.errors import ConfigError, UnsupportedError

ROUTES = ("auto", "attention", "mask")
_ATTRIBUTE = "_sepllm_connection"
# (arguments of the decoder's forward, token ids [batch, new], real [batch, seen + new] or None) -> step
RuleOf = Callable[[dict[str, Any], Tensor, Tensor | None], Step]


def connect(model: nn.Module, route: str | None = None) -> "Connection":
    """The connection of a model; made once, and then found again. Raises UnsupportedError for unfit models.

    route: one of ROUTES; None: as it is, or "auto".
    """
    base = base_of(model) if hasattr(model, "base_model") else model
    known = getattr(base, _ATTRIBUTE, None)
    if known is not None and route in (None, "auto", known.route):
        return known
    if route not in (None, *ROUTES):
        raise ConfigError(f"route is {route!r}; known are {', '.join(ROUTES)}.")
    check_model(model)
    if route == "attention" and not has_interface(model):
        raise UnsupportedError(
            f"{type(model).__name__} does not look its attention up by name, so it cannot be replaced. "
            "Use route='mask'."
        )
    if known is not None:
        known.remove()
    chosen = ("attention" if has_interface(model) else "mask") if route in (None, "auto") else route
    return Connection(model, chosen)


def disconnect(model: nn.Module) -> None:
    """Give a model back as it was before SepCache.for_model. Its caches cannot go on."""
    known = getattr(base_of(model), _ATTRIBUTE, None)
    if known is not None:
        known.remove()


class Connection:
    """A hook on one model. rule: makes the step of passes without a SepCache; None: such passes are dense.

    serves_caches: a SepCache was made for the model, so that the hook has to stay.
    """

    def __init__(self, model: Any, route: str) -> None:
        self.model, self.base, self.route = model, base_of(model), route
        self.rule: RuleOf | None = None
        self.serves_caches = False
        self._signature = inspect.signature(type(self.base).forward)
        self._implementation = model.config.get_text_config()._attn_implementation
        if route == "attention":
            model.set_attn_implementation(NAME)
        elif self._implementation not in ("sdpa", "eager"):
            raise UnsupportedError(
                f"attn_implementation={self._implementation!r} takes no mask of the rule in {type(model).__name__}. "
                "Load the model with attn_implementation='sdpa'."
            )
        self._step: Step | None = None
        self._hooks = [self.base.register_forward_pre_hook(self._before, with_kwargs=True)]
        if route == "mask":
            self._hooks += [
                attention.register_forward_pre_hook(_LayerMask(self, layer), with_kwargs=True)
                for layer, attention in enumerate(attention_layers(model))
            ]
        setattr(self.base, _ATTRIBUTE, self)

    def remove(self) -> None:
        """Give the model back as it was."""
        for hook in self._hooks:
            hook.remove()
        if getattr(self.base, _ATTRIBUTE, None) is self:
            delattr(self.base, _ATTRIBUTE)
        if self.route == "attention":
            self.model.set_attn_implementation(self._implementation)

    def _before(self, module: nn.Module, args: Any, kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        given = self._signature.bind(module, *args, **kwargs).arguments
        given.update(given.pop("kwargs", {}))
        cache = given.get("past_key_values")
        begin = getattr(cache, "begin", None)
        self._step = None
        if begin is None and self.rule is None:
            return args, {**kwargs, STEP: DENSE} if self.route == "attention" else kwargs
        ids = _token_ids(given)
        mask = _padding_mask(given, ids.shape)
        changes: dict[str, Any] = {}
        if begin is not None:
            step: Step = begin(ids, real_of_new(mask, ids.shape[1], cache))
        else:
            assert self.rule is not None
            step = self.rule(given, ids, mask)
            changes["past_key_values"] = given.get("past_key_values")
        positions = step.position_ids()
        if positions is not None:
            changes["position_ids"] = positions
        changes["attention_mask"] = no_mask(ids.device)
        if self.route == "attention":
            changes[STEP] = step
        else:
            self._step = step
        del given["self"]
        return (), {**given, **changes}

    def mask_for(self, layer: int, attention_mask: Tensor | None, dtype: torch.dtype, new: int) -> Tensor | None:
        """The mask of one layer in the form its attention wants. new: queries."""
        if self._step is None:
            return attention_mask
        mask = self._step.mask(layer)
        if mask is None:
            if new == 1:
                return None
            mask = torch.ones(new, new, dtype=torch.bool, device=self._device).tril()[None, None]
        if self._implementation == "sdpa":
            return mask
        return torch.where(mask, 0.0, torch.finfo(dtype).min).to(dtype)

    @property
    def _device(self) -> torch.device:
        return next(self.base.parameters()).device


class _LayerMask:
    """The hook on one attention module: its own mask."""

    def __init__(self, connection: Connection, layer: int) -> None:
        self.connection, self.layer = connection, layer

    def __call__(self, module: nn.Module, args: Any, kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        given = inspect.signature(type(module).forward).bind(module, *args, **kwargs).arguments
        given.update(given.pop("kwargs", {}))
        hidden = given["hidden_states"]
        del given["self"]
        mask = self.connection.mask_for(self.layer, given.get("attention_mask"), hidden.dtype, hidden.shape[1])
        return (), {**given, "attention_mask": mask}


def _token_ids(given: dict[str, Any]) -> Tensor:
    ids = given.get("input_ids")
    if ids is None:
        raise UnsupportedError("inputs_embeds hide which tokens are separators. Call the model with input_ids.")
    if given.get("output_attentions"):
        raise UnsupportedError("output_attentions is not available: no path keeps the probabilities.")
    token_ids: Tensor = ids.view(-1, ids.shape[-1])
    return token_ids


def _padding_mask(given: dict[str, Any], shape: torch.Size) -> Tensor | None:
    """bool [batch, seen + new], True = text, or None."""
    mask = given.get("attention_mask")
    if mask is None:
        return None
    if not isinstance(mask, Tensor) or mask.dim() != 2 or mask.shape[0] != shape[0] or mask.shape[1] < shape[1]:
        raise UnsupportedError(
            f"attention_mask is {list(mask.shape) if isinstance(mask, Tensor) else type(mask).__name__}; expected "
            f"[{shape[0]}, seen + {shape[1]}] with 1 for text and 0 for padding. The rule makes the causal mask itself "
            "(caches of fixed length make one too early: leave cache_implementation out)."
        )
    return mask.bool()


def real_of_new(mask: Tensor | None, new: int, cache: Any) -> Tensor | None:
    """bool [batch, new] where some of the new tokens are padding, else None.

    mask: bool [batch, seen + new], True = text, or None; cache: a SepCache. Raises UnsupportedError.
    """
    if mask is None or (new == 1 and cache.get_seq_length() and not cache.waits_for_text()):
        return None
    seen = cache.get_seq_length()
    if mask.shape[1] != seen + new:
        raise UnsupportedError(
            f"attention_mask has {mask.shape[1]} columns, but the cache saw {seen} tokens and {new} are new. "
            "Give the mask of all of them."
        )
    text = mask.long()
    if bool((text[:, 1:] < text[:, :-1]).any()):
        raise UnsupportedError(
            "attention_mask hides tokens behind text. Pad on the left: tokenizer.padding_side='left'."
        )
    real = mask[:, seen:]
    return None if bool(real.all()) else real

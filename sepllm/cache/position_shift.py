"""Rotary positions counted inside the cache: keys are kept unrotated, and turned to their place when they are used.

Half-split pairs in the first dimensions of a head (Llama, GPT-NeoX, Qwen, Mistral, Phi, Falcon). Turning a kept
key again and again would add a rounding each time; from the unrotated key there is one rounding, always.
"""

from typing import Any

import torch
from torch import Tensor, nn

from sepllm.errors import UnsupportedError

# Types whose frequencies do not depend on the position or on the length of the text.
_STEADY_TYPES = ("default", "linear", "llama3", "yarn", "proportional")


def rotate(states: Tensor, positions: Tensor, inverse_frequencies: Tensor) -> Tensor:
    """Turn keys or queries by their positions; negative positions turn back.

    states: [batch, heads, seq, head_dim]; positions: [seq] or [batch, seq];
    inverse_frequencies: float [pairs]: the first 2 * pairs dimensions turn, the rest stays -> as states.
    """
    positions = positions[None] if positions.dim() == 1 else positions
    fine = torch.promote_types(states.dtype, torch.float32)
    angles = (positions[:, None, :, None].double() * inverse_frequencies.double()).to(fine)  # [b, 1, seq, pairs]
    cosine, sine = angles.cos(), angles.sin()
    pairs = inverse_frequencies.shape[0]
    first, second = states[..., :pairs].to(fine), states[..., pairs : 2 * pairs].to(fine)
    turned = torch.cat((first * cosine - second * sine, second * cosine + first * sine), dim=-1).to(states.dtype)
    return turned if 2 * pairs == states.shape[-1] else torch.cat((turned, states[..., 2 * pairs :]), dim=-1)


def cache_places(position: Tensor) -> Tensor:
    """Place of each entry among the cached ones of its row, oldest first: its position once the cache is all there is.

    position: int64 [batch, k], negative where an entry is empty -> int64 [batch, k], 0 where empty.
    """
    order = position.argsort(dim=-1)
    ranks = torch.empty_like(order).scatter_(
        1, order, torch.arange(position.shape[1], device=position.device).expand_as(order)
    )
    empty = (position < 0).sum(dim=-1, keepdim=True)
    return torch.where(position < 0, 0, ranks - empty)


def inverse_frequencies(model: nn.Module) -> Tensor:
    """The rotary frequencies of a model of transformers, float [pairs]. Raises UnsupportedError where none fit."""
    modules: list[Any] = [module for module in model.modules() if isinstance(getattr(module, "inv_freq", None), Tensor)]
    name = type(model).__name__
    if not modules:
        raise UnsupportedError(
            f"{name} has no rotary embedding, so its keys cannot be moved to other positions. "
            "Leave position shifting out."
        )
    rotary = modules[0]
    kind = getattr(rotary, "rope_type", "default")
    if kind not in _STEADY_TYPES:
        raise UnsupportedError(
            f"{name} uses rotary type {kind!r}, whose frequencies depend on the length of the text: a shifted key "
            "would not be the key at that position. Leave position shifting out."
        )
    found: list[Tensor] = [module.inv_freq for module in modules]
    if any(other.shape != found[0].shape or not torch.equal(other, found[0]) for other in found[1:]):
        raise UnsupportedError(
            f"{name} has layers with different rotary frequencies; position shifting handles one set."
        )
    _check_half_split(rotary, name)
    return found[0]


def _check_half_split(rotary: Any, name: str) -> None:
    """Refuse models that pair neighbouring dimensions: their tables repeat each angle side by side."""
    probe = torch.zeros(1, 1, 1, device=rotary.inv_freq.device)
    try:
        cosine, sine = rotary(probe, torch.tensor([[1, 2]], device=probe.device))
        half = cosine.shape[-1] // 2
        is_halved = torch.equal(cosine[..., :half], cosine[..., half:]) and torch.equal(
            sine[..., :half], sine[..., half:]
        )
    except (TypeError, ValueError, RuntimeError) as error:
        raise UnsupportedError(
            f"{name} makes its rotary tables in a way position shifting does not know: {error}"
        ) from error
    if not is_halved or half != rotary.inv_freq.shape[0]:
        raise UnsupportedError(
            f"{name} pairs neighbouring dimensions in its rotary embedding; "
            "position shifting knows half-split pairs alone."
        )

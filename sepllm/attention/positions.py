"""Position information as pure functions: rotary (arXiv 2104.09864), ALiBi (arXiv 2108.12409), sinusoids."""

import math

import torch
from torch import Tensor


def rotary_cos_sin(positions: Tensor, frequencies: Tensor, amplitude: float = 1.0) -> tuple[Tensor, Tensor]:
    """Cosines and sines of the rotation, in fp32, times the amplitude.

    positions: int64 [batch or 1, seq]; frequencies: fp32 [dim / 2] -> two of [batch or 1, 1, seq, dim], the same for
    every head.
    """
    angles = positions[:, None, :, None].float() * frequencies
    cos, sin = angles.cos() * amplitude, angles.sin() * amplitude
    return torch.cat((cos, cos), dim=-1), torch.cat((sin, sin), dim=-1)


def apply_rotary(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate the first dim dimensions of each head; dimension i pairs with i + dim / 2, as GPT-NeoX does.

    x: [batch, heads, seq, head_dim]; cos, sin: [batch or 1, 1, seq, dim] -> like x.
    """
    dim = cos.shape[-1]
    turned, rest = x[..., :dim], x[..., dim:]
    first, second = turned.chunk(2, dim=-1)
    turned = turned * cos + torch.cat((-second, first), dim=-1) * sin
    return torch.cat((turned.to(x.dtype), rest), dim=-1) if rest.shape[-1] else turned.to(x.dtype)


def alibi_slopes(num_heads: int) -> list[float]:
    """One slope per head: powers 2^(-8k/n) for n a power of two.

    Other counts take the slopes of the power below, then every other one of the doubled set.
    """
    power = 2 ** math.floor(math.log2(num_heads))
    slopes = [2 ** (-8 * k / power) for k in range(1, power + 1)]
    between = [2 ** (-8 * k / (2 * power)) for k in range(1, 2 * power + 1, 2)]
    return slopes + between[: num_heads - power]


def alibi_bias(slopes: Tensor, keys: int, queries: int, positions: Tensor | None = None) -> Tensor:
    """-slope * (position of query - position of key), for the last `queries` of `keys` tokens.

    slopes: [heads]; positions: [keys] or [batch, keys], None: place in the row -> [batch or 1, heads, queries, keys].
    """
    places = torch.arange(keys, device=slopes.device) if positions is None else positions
    places = places.expand(1, -1) if places.dim() == 1 else places
    distance = places[:, keys - queries :, None] - places[:, None, :]  # [b, q, k]
    return -slopes[:, None, None] * distance[:, None].to(slopes.dtype)


def sinusoids(positions: Tensor, hidden_size: int) -> Tensor:
    """Sines, then cosines (Vaswani et al. 2017, GPT-NeoX's order): [..., seq] -> fp32 [..., seq, hidden_size]."""
    exponents = torch.arange(0, hidden_size, 2, device=positions.device, dtype=torch.float32) / hidden_size
    angles = positions[..., None].float() * 10000.0**-exponents
    return torch.cat((angles.sin(), angles.cos()), dim=-1)[..., :hidden_size]

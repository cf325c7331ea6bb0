"""Rotary frequencies, and the ways to stretch them over longer texts than a model was trained on.

linear: Chen et al. 2023 (arXiv 2306.15595). ntk: a larger base (bloc97, 2023). yarn: Peng et al. 2023 (arXiv
2309.00071). llama3: Grattafiori et al. 2024 (arXiv 2407.21783). Entries are named as in transformers.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class RopeScaling:
    """kind: "linear", "ntk", "yarn" or "llama3". factor: how much longer texts become.

    original_length: tokens the frequencies were trained for. beta_fast and beta_slow: turns over that length above
    which yarn keeps a frequency, and below which it is divided by the factor. attention_factor: what cosines and
    sines are multiplied by; None takes yarn's own. truncate: yarn's bounds as whole dimensions.
    low_frequency and high_frequency: the same two bounds of llama3.
    """

    kind: str
    factor: float
    original_length: int
    attention_factor: float | None = None
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    truncate: bool = True
    low_frequency: float = 1.0
    high_frequency: float = 4.0

    @property
    def amplitude(self) -> float:
        """Factor on cosines and sines: it makes attention sharper over longer texts (yarn)."""
        if self.kind != "yarn":
            return 1.0
        return 0.1 * math.log(self.factor) + 1.0 if self.attention_factor is None else self.attention_factor


def rotary_frequencies(
    dim: int, base: float, scaling: RopeScaling | None = None, device: torch.device | None = None
) -> Tensor:
    """Radians per position of each pair of dimensions: fp32 [dim / 2], fastest first. Made on the device."""
    if scaling is not None and scaling.kind == "ntk":
        base *= scaling.factor ** (dim / (dim - 2))
    plain = base ** -(torch.arange(0, dim, 2, dtype=torch.float32, device=device) / dim)
    if scaling is None or scaling.kind == "ntk":
        return plain
    if scaling.kind == "linear":
        return plain / scaling.factor
    kept = _kept_by_yarn(plain, base, scaling) if scaling.kind == "yarn" else _kept_by_llama3(plain, scaling)
    return plain / scaling.factor * (1 - kept) + plain * kept


def _kept_by_yarn(plain: Tensor, base: float, scaling: RopeScaling) -> Tensor:
    """Share of each frequency that is not divided, 0 to 1."""
    dim = 2 * len(plain)

    def dimension_with(turns: float) -> float:
        return dim * math.log(scaling.original_length / (turns * 2 * math.pi)) / (2 * math.log(base))

    first, last = dimension_with(scaling.beta_fast), dimension_with(scaling.beta_slow)
    if scaling.truncate:
        first, last = math.floor(first), math.ceil(last)
    first, last = max(first, 0), min(last, dim - 1)
    width = last - first or 0.001  # transformers' way out of a division by zero
    place = torch.arange(len(plain), dtype=torch.float32, device=plain.device)
    return 1 - ((place - first) / width).clamp(0, 1)


def _kept_by_llama3(plain: Tensor, scaling: RopeScaling) -> Tensor:
    turns = scaling.original_length * plain / (2 * math.pi)
    kept = (turns - scaling.low_frequency) / (scaling.high_frequency - scaling.low_frequency)
    return kept.clamp(0, 1)

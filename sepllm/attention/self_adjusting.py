"""Self-Adjusting softmax: probabilities scaled by where each score lies between the row's extremes.

The extremes are taken over all earlier tokens, also those that the mask hides, and over a zero, as in the
published models; hidden scores themselves are never changed. Any floating type, no cast in between.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from sepllm.errors import ConfigError


@dataclass(frozen=True)
class Adjustment:
    """What is done to a probability p of score s: p (s + shift) / width, with the shift and width of its row.

    variant "sa": p * (s - least + N) / (greatest - least), with least <= 0 <= greatest and the denominator
    bias D in greatest twice, as in the published models; "no_denominator": p * s, which can be negative.
    """

    variant: str
    numerator_bias: float = 0.0
    denominator_bias: float = 1e-10

    def __post_init__(self) -> None:
        if self.variant not in ("sa", "no_denominator"):
            raise ConfigError(f"variant is {self.variant!r}; known are 'sa' and 'no_denominator'.")

    @property
    def by_extremes(self) -> bool:
        """Whether shift and width depend on the extremes of the row."""
        return self.variant == "sa"

    def place(self, least: Tensor, greatest: Tensor) -> tuple[Tensor | float, Tensor | float]:
        """Shift and width of rows with these extremes, least <= 0 <= greatest."""
        if not self.by_extremes:
            return 0.0, 1.0
        return self.numerator_bias - least, greatest + 2 * self.denominator_bias - least


def self_adjusting_probs(
    scores: Tensor,
    keep: Tensor,
    numerator_bias: float = 0.0,
    denominator_bias: float = 1e-10,
    variant: str = "sa",
    past: Tensor | None = None,
) -> Tensor:
    """Attention weights of the Self-Adjusting softmax; rows do not add up to one.

    scores: [..., query, key], scaled, the queries being the last ones of the keys -> same shape.
    keep: bool, broadcasts to scores, True where a query may look.
    past: bool, broadcasts to scores, the keys whose scores count for the extremes; None: all up to the query.
    variant and biases: see Adjustment.
    """
    adjustment = Adjustment(variant, numerator_bias, denominator_bias)
    if past is None:
        queries, keys = scores.shape[-2:]
        past = torch.ones(queries, keys, dtype=torch.bool, device=scores.device).tril(keys - queries)
    seen = torch.where(past, scores, 0.0)
    least, greatest = seen.amin(dim=-1, keepdim=True), seen.amax(dim=-1, keepdim=True)
    shift, width = adjustment.place(least.clamp(max=0.0), greatest.clamp(min=0.0))
    probs = scores.masked_fill(~keep, -torch.inf).softmax(dim=-1)
    return probs * (scores + shift) / width

"""Self-Adjusting softmax: probabilities scaled by where each score lies between the row's extremes.

The extremes are taken over all earlier tokens, also those that the mask hides, and over a zero, as in the
published models; hidden scores themselves are never changed. Any floating type, no cast in between.
"""

import torch
from torch import Tensor

from sepllm.errors import ConfigError


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
    variant "sa": p * (s - least + N) / (greatest - least), with least <= 0 <= greatest and the denominator
    bias D in greatest twice, as in the published models; "no_denominator": p * s, which can be negative.
    """
    probs = scores.masked_fill(~keep, -torch.inf).softmax(dim=-1)
    if variant == "no_denominator":
        return probs * scores
    if variant != "sa":
        raise ConfigError(f"variant is {variant!r}; known are 'sa' and 'no_denominator'.")
    if past is None:
        queries, keys = scores.shape[-2:]
        past = torch.ones(queries, keys, dtype=torch.bool, device=scores.device).tril(keys - queries)
    seen = torch.where(past, scores, 0.0)
    least = seen.amin(dim=-1, keepdim=True).clamp(max=0.0)
    greatest = seen.amax(dim=-1, keepdim=True).clamp(min=0.0) + 2 * denominator_bias
    return probs * (scores - least + numerator_bias) / (greatest - least)

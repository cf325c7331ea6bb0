"""How much of full attention a plan keeps: tensors on the plan's device, read when you want to wait for it.

The paper's "Atten. (%)" is kept_ratio, its "r.KV" is kept_key_ratio. Padding counts on neither side.
"""

import torch
from torch import Tensor

from sepllm.attention.plan import Plan


def pair_counts(plan: Plan) -> Tensor:
    """float64 [2]: kept pairs and causal pairs, summed over the rows, ready to be added up over steps."""
    return plan.pair_counts


def kept_ratio(plan: Plan) -> Tensor:
    """float64 scalar: kept query-key pairs over those of full attention, whole batch together."""
    kept, causal = pair_counts(plan).unbind()
    return kept / causal.clamp(min=1)


def kept_key_ratio(plan: Plan) -> Tensor:
    """float64 scalar: keys that the newest tokens of the rows see, over those of full attention."""
    kept, seen = key_counts(plan).unbind()
    return kept / seen.clamp(min=1)


def key_counts(plan: Plan) -> Tensor:
    """float64 [2]: keys that the newest tokens of the rows see, and those they would see under full attention."""
    return torch.stack([plan.kept_keys[:, -1].sum(), plan.seen_keys[:, -1].sum()]).double()


def attention_counts(plan: Plan) -> Tensor:
    """float64 [4]: pair_counts and key_counts, ready to be added up over micro-batches."""
    return torch.cat([pair_counts(plan), key_counts(plan)])

"""Bilevel positions (BiPE, arXiv 2401.16421): which segment a token is in, and where inside it.

A separator closes its own segment. Both numbers start at 0 in each row; rows know nothing of each other.
"""

from collections.abc import Iterable

import torch
from torch import Tensor

from sepllm.attention.separators import is_separator


def bilevel_positions(
    token_ids: Tensor, separators: Iterable[int], first_real: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Place inside the segment and number of the segment, for every token.

    token_ids: [batch, seq], cached tokens included (the numbers of a token depend on all before it)
    -> intra, inter: int64 [batch, seq].
    first_real: int64 [batch], column of the first real token of left-padded rows; padding gets 0, 0.
    """
    flags = is_separator(token_ids, separators)
    position = torch.arange(token_ids.shape[1], device=token_ids.device)
    begin = torch.zeros_like(token_ids[:, :1], dtype=torch.int64)
    if first_real is not None:
        begin = first_real[:, None]
        flags = flags & (position >= begin)
    closed = flags.long()
    inter = closed.cumsum(dim=1) - closed
    # A segment starts right after the separator before it: the latest such place so far.
    starts = torch.where(flags, position + 1, 0)[:, :-1].cummax(dim=1).values
    starts = torch.maximum(torch.nn.functional.pad(starts, (1, 0)), begin)
    return (position - starts).clamp(min=0), inter

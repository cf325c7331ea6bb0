"""What the kernels read of a plan: a few int32 vectors per row, made on the device without waiting for it.

Every key is seen by one stretch of queries, [begin, end). That holds for nearby keys and for marked keys beyond
the window, with documents, padding and a limit on separators; so the kernels need no table per tile.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from sepllm.attention.plan import Plan


@dataclass(frozen=True, eq=False)
class Tables:
    """All int32, contiguous. `seq` stands for "never" in packed.

    before: [batch, seq + 1], number of marked tokens before a position.
    packed: [batch, seq], positions of the marked tokens in order, then `seq`.
        The k-th is seen from a distance by queries from packed[k] + window to before far_end[k].
    start: [batch, seq], first position that a query may see.
    near_end: [batch, seq], the first query that starts beyond a key; far_end: [batch, seq], as above.
    has_ends: False when start is 0 and both ends are `seq` everywhere; the three are then stand-ins, never read.
    """

    before: Tensor
    packed: Tensor
    start: Tensor
    near_end: Tensor
    far_end: Tensor
    has_ends: bool


def tables_of(plan: Plan) -> Tables:
    """The tables of a plan, worked out once and kept with it."""
    known = plan.scratch.get(("triton", 0))
    if known is None:
        known = plan.scratch[("triton", 0)] = _make_tables(plan)
    return known


def _make_tables(plan: Plan) -> Tables:
    marks = plan.marks
    before, packed = plan.marked_before.int(), plan.packed_positions.int()
    if marks.start is None and marks.limit is None:
        return Tables(before, packed, packed, packed, packed, has_ends=False)
    position = torch.arange(plan.seq, device=packed.device).expand(plan.batch, -1).contiguous()
    start = torch.zeros_like(position) if marks.start is None else marks.start.contiguous()
    near_end = torch.searchsorted(start, position, right=True)  # start never decreases along a row
    inside = plan.packed_positions.clamp(max=plan.seq - 1)
    far_end = near_end.gather(1, inside)
    if marks.limit is not None:
        assert marks.initial is not None
        # The query that sees the limit-th marked token after this one beyond its window no longer sees this one.
        filler = torch.full_like(position[:, :1], plan.seq).expand(-1, min(marks.limit, plan.seq))
        successor = torch.cat([plan.packed_positions, filler], dim=1)[:, -plan.seq :]
        pushed_out = torch.minimum(far_end, successor + plan.window)
        far_end = torch.where(marks.initial.gather(1, inside), far_end, pushed_out)
    return Tables(before, packed, start.int(), near_end.int(), far_end.int(), has_ends=True)

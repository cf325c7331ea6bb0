"""How the packed path cuts its work: blocks of queries, and for each the stretches of keys they see.

A block is some equal chunks of neighbouring queries. A chunk sees the keys nearby through its own stretch of the
row; the block sees gathered marked keys, first those beyond the window of all its queries, then a short stretch
that needs a mask. All of it follows from a few counts of the plan.
"""

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from sepllm.attention.plan import Plan
from sepllm.attention.rule import look_mask, may_look

# Queries of one block. Twice as many are 3 % faster on texts of 16384 tokens, for 15 % more memory.
SPAN = 512
_FEW = 48  # gathered keys; that few are cheaper under a mask together with the others than apart
_REMEMBERED_KEYS = 512  # masks up to this width stay with the plan, wider ones are made when needed


@dataclass(frozen=True, eq=False)
class Block:
    """Queries first..last of one row (places in the row), in `chunks` chunks of equal size.

    reach: keys before its own first query that each chunk's stretch of nearby keys holds.
    far: gathered keys far[0]..far[1] are seen by all queries, far[2]..far[3] as the rule says, between them none is.
    same_start: no query of the block starts to see later than its stretch of nearby keys begins.
    only_window: nothing but the window decides which of far[0]..far[3] a query sees.
    """

    plan: Plan
    row: int
    first: int
    last: int
    chunks: int
    reach: int
    far: tuple[int, int, int, int]
    same_start: bool
    only_window: bool

    @property
    def chunk(self) -> int:
        return (self.last - self.first) // self.chunks

    @property
    def near_from(self) -> int:
        """Place of the first nearby key of the first chunk."""
        return self.first - self.reach

    @property
    def near(self) -> int:
        """Nearby keys of each chunk."""
        return self.chunk + self.reach

    def queries(self) -> Tensor:
        """int64 [chunks, chunk]: places of the queries."""
        return torch.arange(self.first, self.last, device=self._device).view(self.chunks, -1)

    def near_keys(self) -> Tensor:
        """int64 [chunks, near]: places of the keys nearby."""
        begin = torch.arange(self.near_from, self.last - self.chunk - self.reach + 1, self.chunk, device=self._device)
        return begin[:, None] + torch.arange(self.near, device=self._device)

    def near_keep(self) -> Tensor:
        """bool [chunks or 1, chunk, near]: the window."""
        if self.near > _REMEMBERED_KEYS:
            return self._make_near_keep()
        key = ("packed, nearby", self.chunk, self.reach, None if self.same_start else (self.row, self.first))
        if key not in self.plan.scratch:
            self.plan.scratch[key] = self._make_near_keep()
        known: Tensor = self.plan.scratch[key]
        return known

    def far_keep(self) -> Tensor:
        """bool [chunks, chunk, far[3] - far[2]]: the rule beyond the window."""
        return self._far_keep if self.far[3] - self.far[2] <= _REMEMBERED_KEYS else self._make_far_keep()

    def far_stretches(self) -> list[tuple[slice, Tensor | None]]:
        """Stretches of gathered keys, each with far_keep where it needs it."""
        begin, plain_end, ruled, end = self.far
        plain: list[tuple[slice, Tensor | None]] = [(slice(begin, plain_end), None)] if plain_end > begin else []
        return [*plain, (slice(ruled, end), self.far_keep())] if end > ruled else plain

    def far_some(self) -> Tensor:
        """bool [chunks, chunk]: queries to whom far_keep shows at least one key."""
        return self._far_some

    @cached_property
    def _far_keep(self) -> Tensor:
        return self._make_far_keep()

    @cached_property
    def _far_some(self) -> Tensor:
        keep = self.far_keep()
        # Under the window alone, who sees any of them sees the first.
        return keep[:, :, 0] if self.only_window else keep.any(dim=-1)

    def _make_near_keep(self) -> Tensor:
        i, j, start = self.queries(), self.near_keys(), self.plan.marks.start
        if self.same_start:
            i, j = i[:1], j[:1]
        begin = 0 if self.same_start or start is None else start[self.row, i][:, :, None]
        unmarked = torch.zeros_like(j[:, None], dtype=torch.bool)
        return may_look(i[:, :, None], j[:, None], unmarked, begin, self.plan.window)

    def _make_far_keep(self) -> Tensor:
        i, j = self.queries().flatten(), self.plan.packed_positions[self.row, self.far[2] : self.far[3]]
        keep = j <= (i - self.plan.window)[:, None]
        if not self.only_window:
            keep &= look_mask(self.plan.marks.row(self.row), i, j)[0]
        return keep.view(self.chunks, self.chunk, -1)

    @property
    def _device(self) -> torch.device:
        return self.plan.marks.marked.device


def blocks_of(plan: Plan, queries: int, span: int) -> list[list[Block]]:
    """The blocks of every row for the last `queries` positions, about `span` queries each.

    Worked out once per plan. Reads a few counts: on a GPU this waits for them.
    """
    key = ("packed", queries, span)
    if key not in plan.scratch:
        plan.scratch[key] = _work_out(plan, queries, span)
    known: list[list[Block]] = plan.scratch[key]
    return known


def _work_out(plan: Plan, queries: int, span: int) -> list[list[Block]]:
    cuts = _cuts(plan.seq - queries, plan.seq, plan.window, span)
    device = plan.marks.marked.device
    first = torch.tensor([begin for begin, _, _ in cuts], device=device)
    last = torch.tensor([end for _, end, _ in cuts], device=device)
    start = torch.zeros(plan.batch, plan.seq, dtype=torch.int64, device=device)
    if plan.marks.start is not None:
        start = plan.marks.start
    begin, latest = start[:, first], start[:, last - 1]
    before = plan.marked_before
    far_from = before.gather(1, begin)
    plain_to = before.gather(1, torch.maximum((first - plan.window + 1).clamp(min=0).expand_as(begin), begin))
    far_to = before.gather(1, torch.maximum((last - plan.window).clamp(min=0).expand_as(begin), begin))
    initial = torch.zeros_like(plain_to)
    if plan.marks.initial is not None:
        before = torch.nn.functional.pad(plan.marks.initial.long().cumsum(dim=1), (1, 0))
        initial = before.gather(1, torch.maximum((first - plan.window + 1).clamp(min=0).expand_as(begin), begin))
        initial = initial - before.gather(1, begin)
    table = torch.stack([begin, latest, far_from, plain_to, far_to, initial], dim=-1).tolist()
    return [
        [_block(plan, index, *cut, *counts) for cut, counts in zip(cuts, row, strict=True)]
        for index, row in enumerate(table)
    ]


def _block(
    plan: Plan,
    row: int,
    first: int,
    last: int,
    chunks: int,
    begin: int,
    latest: int,
    far_from: int,
    plain_to: int,
    far_to: int,
    initial: int,
) -> Block:
    reach = plan.window - 1 if chunks > 1 else min(plan.window - 1, first - begin)
    only_window = latest == begin and plan.marks.limit is None
    ruled = plain_to
    if plan.marks.limit is not None and latest == begin:
        # Initial keys come first and are seen by all; of the others beyond every window, only the newest are.
        ruled, plain_to = max(far_from + initial, plain_to - plan.marks.limit), far_from + initial
    if ruled - far_from < _FEW or (latest != begin):
        ruled = plain_to = far_from
    far = far_from, plain_to, ruled, far_to
    return Block(plan, row, first, last, chunks, reach, far, latest <= first - reach, only_window)


def _cuts(begin: int, end: int, window: int, span: int) -> list[tuple[int, int, int]]:
    """(first, last, chunks) of every block. A chunk whose window is cut by the start of the row stands alone."""
    chunk = chunk_for(window)
    most = 1 if window > span else max(1, span // chunk)
    cuts = []
    while begin < end:
        chunks = max(1, min(most, (end - begin) // chunk)) if begin >= window - 1 else 1
        last = min(begin + chunks * chunk, end)
        cuts.append((begin, last, chunks))
        begin = last
    return cuts


def chunk_for(window: int) -> int:
    """Queries that share a stretch of nearby keys: more for wide windows, whose gradients are laid out per chunk."""
    return 32 if window <= 64 else 64 if window <= 128 else 128

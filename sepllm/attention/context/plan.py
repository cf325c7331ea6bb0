"""What one rank of a context group computes and exchanges, worked out from the plan of the whole text in O(seq).

All rests on one property of the rule: what a query sees of the text before an earlier query, that one sees too.
So the keys that a stretch needs from outside are those that its first query sees; with the stretch itself behind
them they are a shorter text, to which the same rule applies and every path of attention is open.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from sepllm.attention.context.split import Split
from sepllm.attention.plan import Plan
from sepllm.attention.rule import Marks, look_mask
from sepllm.errors import ShapeError


@dataclass(frozen=True, eq=False)
class StretchPlan:
    """One stretch of a rank: keys gathered in front of it, then the stretch; rows padded on the left to one length.

    first, end: its place in the text. plan: the rule over the gathered keys, the last end - first being the queries.
    rows: int64 [batch, keys], for each key its row of the rank's table (see ContextPlan).
    positions: int64 [batch, keys], its place in the text; 0 for padding.
    """

    first: int
    end: int
    plan: Plan
    rows: Tensor
    positions: Tensor


@dataclass(frozen=True, eq=False)
class ContextPlan:
    """One rank's work on a micro-batch, for the layers with one window (and interval).

    A rank's table holds its own keys, batch x length of them, then the received ones by sending rank, then one of
    zeros for padding. sends: int64 [sent], own keys to send, by receiving rank; sent and received count them by rank.
    sees_all: earlier keys that the rule hides are exchanged too, for softmaxes that look at hidden scores.
    """

    whole: Plan
    split: Split
    rank: int
    stretches: tuple[StretchPlan, ...]
    sends: Tensor
    sent: tuple[int, ...]
    received: tuple[int, ...]
    sees_all: bool

    @property
    def length(self) -> int:
        """Positions of each row that this rank holds."""
        return self.split.length(self.rank)


def build_context_plan(plan: Plan, split: Split, rank: int, *, sees_all: bool = False) -> ContextPlan:
    """The part of `rank` in the work that `plan` describes. Every rank of the group calls it with the same plan.

    plan: of the whole text. sees_all: see ContextPlan. Reads a few counts: on a GPU this waits for them.
    """
    if split.seq != plan.seq:
        raise ShapeError(f"The split is of {split.seq} positions, the plan of {plan.seq}; both must name one text.")
    owner = _owners(split, plan.marks.marked.device)
    needed = [_needed(plan, split, peer, owner, sees_all) for peer in range(split.ranks)]
    own = split.positions(rank, owner.device)
    place = torch.zeros_like(owner).index_copy_(0, own, torch.arange(len(own), device=owner.device))

    from_peers = [(needed[rank] & (owner == peer)).nonzero() for peer in range(split.ranks)]  # [received, 2]
    to_peers = [(needed[peer] & (owner == rank)).nonzero() for peer in range(split.ranks)]
    table = place.repeat(plan.batch, 1) + torch.arange(plan.batch, device=owner.device)[:, None] * len(own)
    wanted = torch.cat(from_peers)
    start = plan.batch * len(own)
    table[wanted[:, 0], wanted[:, 1]] = torch.arange(start, start + len(wanted), device=owner.device)
    sends = torch.cat(to_peers)
    return ContextPlan(
        whole=plan,
        split=split,
        rank=rank,
        stretches=tuple(
            _stretch_plan(plan, *stretch, table, start + len(wanted), sees_all) for stretch in split.stretches[rank]
        ),
        sends=table[sends[:, 0], sends[:, 1]],
        sent=tuple(len(rows) for rows in to_peers),
        received=tuple(len(rows) for rows in from_peers),
        sees_all=sees_all,
    )


def exchanged_keys(plan: Plan, split: Split, *, sees_all: bool = False) -> Tensor:
    """int64 [ranks, ranks]: keys that each rank (row) receives from each other one, the batch together."""
    owner = _owners(split, plan.marks.marked.device)
    needed = torch.stack([_needed(plan, split, rank, owner, sees_all).sum(dim=0) for rank in range(split.ranks)])
    return torch.zeros(split.ranks, split.ranks, dtype=torch.int64, device=owner.device).index_add_(1, owner, needed)


def rank_pairs(plan: Plan, split: Split) -> Tensor:
    """int64 [ranks]: query-key pairs that each rank computes, the batch together: the balance of a split."""
    return torch.stack([plan.kept_keys[:, split.positions(rank)].sum() for rank in range(split.ranks)])


def _owners(split: Split, device: torch.device) -> Tensor:
    """int64 [seq]: the rank that holds each position."""
    owner = torch.empty(split.seq, dtype=torch.int64, device=device)
    for rank, stretches in enumerate(split.stretches):
        for first, end in stretches:
            owner[first:end] = rank
    return owner


def _needed(plan: Plan, split: Split, rank: int, owner: Tensor, sees_all: bool) -> Tensor:
    """bool [batch, seq]: keys of other ranks that some query of this rank sees."""
    seen = torch.stack([_seen_before(plan, first, sees_all) for first, _ in split.stretches[rank]])
    return seen.any(dim=0) & (owner != rank)


def _seen_before(plan: Plan, first: int, sees_all: bool) -> Tensor:
    """bool [batch, seq]: keys before position `first` that the query there sees."""
    positions = torch.arange(plan.seq, device=plan.marks.marked.device)
    marks = plan.marks
    if sees_all:
        marks = Marks(plan.seq, torch.zeros_like(marks.marked), marks.start)
    return look_mask(marks, positions[first : first + 1], positions)[:, 0] & (positions < first)


def _stretch_plan(plan: Plan, first: int, end: int, table: Tensor, zero_row: int, sees_all: bool) -> StretchPlan:
    position = torch.arange(plan.seq, device=table.device)
    keys = _seen_before(plan, first, sees_all) | ((position >= first) & (position < end))
    counts = keys.sum(dim=1)
    length = int(counts.max())
    padding = length - counts
    # Kept keys move together towards the end of the row; the rest falls into a column that is cut off.
    column = torch.where(keys, keys.cumsum(dim=1) - 1 + padding[:, None], length)
    blank = torch.zeros(plan.batch, length + 1, dtype=torch.int64, device=table.device)
    positions = blank.scatter(1, column, position.expand(plan.batch, -1))[:, :-1]
    real = torch.arange(length, device=table.device) >= padding[:, None]
    rows = table.gather(1, positions).where(real, zero_row)
    marks = _moved_marks(plan.marks, first, length - (end - first), positions, real, padding)
    return StretchPlan(first, end, Plan(plan.batch, length, marks, marks.window == length, padding), rows, positions)


def _moved_marks(marks: Marks, first: int, before: int, positions: Tensor, real: Tensor, padding: Tensor) -> Marks:
    """The marks of the gathered keys, of which the query at `first` is number `before`."""
    length = positions.shape[1]
    window = min(marks.window, length)
    start: Tensor | None = None
    if marks.start is not None or bool(padding.any()):
        column = torch.arange(length, device=positions.device)
        start = torch.minimum(padding[:, None], column)
        if marks.start is not None:
            began = marks.start.gather(1, positions)
            # A start before the stretch is that of its first query: where the gathered keys begin.
            start = torch.where(real & (began >= first), began - first + before, start)
    if window == length:
        return Marks(length, torch.zeros_like(real), start)
    marked = marks.marked.gather(1, positions) & real
    if marks.limit is None:
        return Marks(window, marked, start)
    assert marks.initial is not None and marks.rank is not None
    initial = marks.initial.gather(1, positions) & real
    return Marks(window, marked, start, marks.limit, initial, marks.rank.gather(1, positions))

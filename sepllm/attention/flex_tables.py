"""Tables for FlexAttention over [gathered marked keys | all keys]: which tiles of keys each tile of queries needs.

All from a few counts of the plan, without waiting for a GPU; nothing is larger than (seq / 128) squared. Marked keys
beyond the capacity for gathered ones stay where they are and are looked up there: exact, only slower.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask

from sepllm.attention.plan import Plan
from sepllm.attention.rule import may_look

TILE = 128
# Texts have 0.08 to 0.38 marked tokens per token; the size is fixed so that no text causes a compilation.
CAPACITY_SHARE = 0.5

Visible = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]


@dataclass(frozen=True, eq=False)
class FlexTables:
    """capacity: gathered keys, a multiple of TILE; seq: of the plan, rounded up to TILE.

    gather: int64 [batch, capacity], places of the gathered keys, clamped to the row. target: the same, but plan.seq
    where there is none. place: int32 [batch, capacity + seq], place in the row of every key; beyond every query for
    those that do not exist. blocks: for flex_attention, over [capacity | seq] keys.
    """

    capacity: int
    seq: int
    gather: Tensor
    target: Tensor
    place: Tensor
    blocks: BlockMask


def packed_capacity(seq: int) -> int:
    """Gathered keys that are provided for: a share of seq, rounded up to whole tiles."""
    return -(-int(seq * CAPACITY_SHARE) // TILE) * TILE or TILE


def rows_above(plan: Plan, capacity: int) -> Tensor:
    """int64 scalar on the plan's device: rows with more marked tokens than are gathered."""
    return (plan.packed_counts > capacity).sum()


def flex_tables(plan: Plan, capacity: int | None = None) -> FlexTables:
    """The tables of a plan. capacity: a multiple of TILE; None: packed_capacity, or 0 for a dense plan."""
    if capacity is None:
        capacity = 0 if plan.is_dense else packed_capacity(plan.seq)
    seq = -(-plan.seq // TILE) * TILE
    device = plan.marks.marked.device
    beyond = seq + plan.window  # no query may look there
    packed = torch.nn.functional.pad(plan.packed_positions, (0, capacity), value=plan.seq)[:, :capacity]
    positions = torch.arange(seq, device=device).expand(plan.batch, -1)
    place = torch.cat([packed.where(packed < plan.seq, beyond), positions], dim=1).int()
    blocks = _block_mask(plan, capacity, seq, place)
    return FlexTables(capacity, seq, packed.clamp(max=plan.seq - 1), packed, place, blocks)


def _block_mask(plan: Plan, capacity: int, seq: int, place: Tensor) -> BlockMask:
    left = _left_in_place(plan, capacity, seq)
    start = torch.zeros(plan.batch, seq, dtype=torch.int64, device=place.device)
    if plan.marks.start is not None:
        start = torch.nn.functional.pad(plan.marks.start, (0, seq - plan.seq), mode="replicate")
    needed, full = _tiles(plan, capacity, seq, start, left)
    partial, partial_count = _ordered(needed & ~full)
    whole, whole_count = _ordered(needed & full)
    return BlockMask.from_kv_blocks(
        partial_count,
        partial,
        whole_count,
        whole,
        BLOCK_SIZE=TILE,
        mask_mod=_visible(plan, capacity, seq, place, start.int(), left),
        seq_lengths=(seq, capacity + seq),
    )


def _left_in_place(plan: Plan, capacity: int, seq: int) -> Tensor:
    """bool [batch, seq]: marked tokens for which the capacity did not suffice."""
    left = plan.marks.marked & (plan.marked_before[:, :-1] >= capacity)
    return torch.nn.functional.pad(left, (0, seq - plan.seq))


def _visible(plan: Plan, capacity: int, seq: int, place: Tensor, start: Tensor, left: Tensor) -> Visible:
    """The rule for key number `k` of [capacity | seq] keys, as flex_attention wants it."""
    window, marks = plan.window, plan.marks
    gathered = torch.ones(plan.batch, capacity, dtype=torch.bool, device=place.device)
    far = torch.cat([gathered, left], dim=1)

    def visible(b: Tensor, h: Tensor, q: Tensor, k: Tensor) -> Tensor:
        j = place[b, k]
        # A gathered key inside the window is seen at its own place; once is enough.
        return may_look(q, j, far[b, k], start[b, q], window) & ((k >= capacity) | (q - j >= window))

    if marks.limit is None:
        return visible
    assert marks.rank is not None and marks.initial is not None
    limit, pad = marks.limit, seq - plan.seq
    # Initial tokens count as newer than all others, so that no limit hides them.
    order = torch.nn.functional.pad(marks.rank.where(~marks.initial, 2 * seq), (0, pad))
    order = order.gather(1, place.long().clamp(max=seq - 1)).int()
    queries = (torch.arange(seq, device=place.device) - window).clamp(min=0, max=plan.seq - 1)
    newest = marks.rank[:, queries].int()

    def visible_to_a_limit(b: Tensor, h: Tensor, q: Tensor, k: Tensor) -> Tensor:
        near = q - place[b, k] < window
        return visible(b, h, q, k) & (near | (newest[b, q] - order[b, k] < limit))

    return visible_to_a_limit


def _tiles(plan: Plan, capacity: int, seq: int, start: Tensor, left: Tensor) -> tuple[Tensor, Tensor]:
    """bool [batch, tiles of queries, tiles of keys], twice: some pair is visible; every pair is."""
    device, window = start.device, plan.window
    first = torch.arange(0, seq, TILE, device=device)  # of each tile of queries
    last = first + TILE - 1
    start_first, start_last = start[:, first, None], start[:, last, None]  # [batch, tiles, 1]

    gathered = torch.arange(0, capacity, TILE, device=device)
    before = plan.marked_before
    shown_from = before.gather(1, start_first[..., 0])[..., None]
    shown_to = before[:, (last - window + 1).clamp(min=0, max=plan.seq)][..., None]
    needed = torch.maximum(gathered, shown_from) < torch.minimum(gathered + TILE, shown_to)
    all_from = before.gather(1, start_last[..., 0])[..., None]
    all_to = before[:, (first - window + 1).clamp(min=0, max=plan.seq)][..., None]
    full = (gathered >= all_from) & (gathered + TILE <= all_to)
    if plan.marks.limit is not None:
        full = torch.zeros_like(full)

    keys, key_last = first, last
    q_first, q_last = first[:, None], last[:, None]
    near = (keys <= q_last) & (key_last > q_first - window) & (key_last >= start_first)
    near_full = (key_last <= q_first) & (q_last - keys < window) & (keys >= start_last)
    remaining = torch.nn.functional.pad(left.long().cumsum(dim=1), (1, 0))  # before each place
    low = torch.maximum(keys.expand_as(start_first * keys), start_first)
    high = torch.minimum(keys + TILE, q_last - window + 1).expand_as(low).clamp(min=0)
    shown = remaining.gather(1, high.flatten(1)) > remaining.gather(1, low.flatten(1))
    near = near | shown.view_as(low)
    return torch.cat([needed, near], dim=2), torch.cat([full, near_full.expand_as(near)], dim=2)


def _ordered(tiles: Tensor) -> tuple[Tensor, Tensor]:
    """bool [batch, q, k] -> int32 [batch, 1, q, k]: numbers of the true ones first; [batch, 1, q]: how many."""
    order = tiles.int().argsort(dim=-1, descending=True, stable=True)
    return order[:, None].int(), tiles.sum(dim=-1, dtype=torch.int32)[:, None]

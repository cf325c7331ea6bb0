"""Tables of the flex path against the rule, entry by entry: nothing missed, nothing called full that is not."""

import pytest
import torch
from torch import Tensor

from sepllm.attention.flex_tables import TILE, FlexTables, flex_tables, packed_capacity, rows_above
from sepllm.attention.plan import Plan, build_plan
from tests.sepllm.attention.brute_force import Case, hard_cases, sep, text

CASES = {name: case for name, case in hard_cases().items() if case.queries is None}


def _pairs(plan: Plan, tables: FlexTables) -> Tensor:
    """bool [batch, queries, keys] from the mask function, rows and keys that only fill up included."""
    batch, keys = plan.batch, tables.place.shape[1]
    b = torch.arange(batch)[:, None, None]
    q, k = torch.arange(tables.seq)[None, :, None], torch.arange(keys)[None, None, :]
    return tables.blocks.mask_mod(b, torch.zeros_like(b), q, k).expand(batch, -1, -1)


def _listed(counts: Tensor, indices: Tensor) -> Tensor:
    """bool [batch, tiles of queries, tiles of keys]."""
    listed = torch.arange(indices.shape[-1]) < counts[:, 0, :, None]
    return torch.zeros(indices[:, 0].shape, dtype=torch.bool).scatter_(2, indices[:, 0].long(), listed)


def _check(plan: Plan, tables: FlexTables, mask: Tensor, superfluous: bool) -> None:
    pairs = _pairs(plan, tables)
    seen = torch.zeros(plan.batch, tables.seq, plan.seq + 1, dtype=torch.int64)
    where = tables.place.clamp(max=plan.seq).long()[:, None].expand(-1, tables.seq, -1)
    seen.scatter_add_(2, where, pairs.long())
    assert torch.equal(seen[:, : plan.seq, : plan.seq], mask.long())  # each key of the rule once

    tiles = pairs.unflatten(1, (-1, TILE)).unflatten(3, (-1, TILE))
    some, all_seen = tiles.any(4).any(2), tiles.all(4).all(2)
    blocks = tables.blocks
    assert blocks.full_kv_num_blocks is not None and blocks.full_kv_indices is not None
    partial = _listed(blocks.kv_num_blocks, blocks.kv_indices)
    full = _listed(blocks.full_kv_num_blocks, blocks.full_kv_indices)
    assert not (some & ~(partial | full)).any(), "a tile is missed"
    assert not (full & ~all_seen).any(), "a tile is called full and is not"
    assert not (partial & full).any()
    if not superfluous:
        assert not ((partial | full) & ~some).any(), "a tile is superfluous"
        assert not (partial & all_seen).any(), "a full tile is not called so"


@pytest.mark.parametrize("name", CASES)
def test_hard_cases(name: str) -> None:
    case = CASES[name]
    plan = build_plan(case.config, case.ids, **case.rows)
    special = case.documents is not None or case.first_real is not None or case.config.max_separators is not None
    _check(plan, flex_tables(plan), case.mask(), superfluous=special)


@pytest.mark.parametrize("window", [1, 64, 127, 128, 129, 300])
def test_longer_texts(window: int) -> None:
    """Several tiles of gathered keys, full tiles among them."""
    plan = build_plan(sep(window=window), text(3, 1000, share=0.3))
    tables = flex_tables(plan)
    # Queries behind the end of the text count as queries for a tile: 1000 is no multiple of 128.
    _check(plan, tables, plan.dense_mask, superfluous=True)
    assert int(tables.blocks.full_kv_num_blocks.sum()) > 0
    whole = build_plan(sep(window=window), text(3, 1024, share=0.3))
    _check(whole, flex_tables(whole), whole.dense_mask, superfluous=False)


@pytest.mark.parametrize("last", [448, 449, 450])
def test_a_tile_of_gathered_keys_that_ends_at_the_border(last: int) -> None:
    """The tile of queries from 512 on sees all 128 separators beyond its window of 64 if the last stands at 448."""
    ids = torch.full((1, 1024), 9)
    ids[0, last - 127 : last + 1] = 1
    plan = build_plan(sep(window=64, init_tokens=0), ids)
    tables = flex_tables(plan)
    _check(plan, tables, plan.dense_mask, superfluous=False)
    first_full = int(tables.blocks.full_kv_num_blocks[0, 0].nonzero()[0])
    assert first_full == (4 if last == 448 else 5)


@pytest.mark.parametrize("limit", [None, 5])
def test_more_marked_tokens_than_are_gathered(limit: int | None) -> None:
    plan = build_plan(sep(max_separators=limit), text(3, 640, share=0.7))
    assert int(rows_above(plan, 128)) == 3
    _check(plan, flex_tables(plan, capacity=128), plan.dense_mask, superfluous=True)


def test_documents_over_many_tiles() -> None:
    documents = (torch.rand(2, 1024, generator=torch.Generator().manual_seed(3)) < 0.01).long().cumsum(1)
    case = Case(text(2, 1024, share=0.4), sep(window=20), documents=documents)
    plan = build_plan(case.config, case.ids, **case.rows)
    _check(plan, flex_tables(plan), plan.dense_mask, superfluous=True)


def test_sizes_depend_on_the_shape_alone() -> None:
    shapes = set()
    for share in (0.0, 0.1, 0.9):
        tables = flex_tables(build_plan(sep(), text(2, 700, share=share)))
        shapes.add((tables.place.shape, tables.gather.shape, tables.blocks.kv_indices.shape))
    assert len(shapes) == 1
    assert packed_capacity(700) == 384 and packed_capacity(1) == 128 and packed_capacity(2048) == 1024


def test_nothing_is_gathered_for_a_dense_plan() -> None:
    assert flex_tables(build_plan(sep(mode="full"), text(1, 300))).capacity == 0

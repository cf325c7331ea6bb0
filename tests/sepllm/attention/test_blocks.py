"""The blocks together show every query exactly the keys of the rule, each once."""

import pytest
import torch
from torch import Tensor

from sepllm.attention.blocks import blocks_of
from sepllm.attention.plan import Plan, build_plan
from tests.sepllm.attention.brute_force import hard_cases, sep, text


def _times_seen(plan: Plan, queries: int, span: int) -> Tensor:
    """int64 [batch, queries, seq]: how often the blocks show each key to each query."""
    seen = torch.zeros(plan.batch, plan.seq, plan.seq, dtype=torch.int64)
    for row, blocks in enumerate(blocks_of(plan, queries, span)):
        for block in blocks:
            places = torch.arange(block.first, block.last).view(block.chunks, block.chunk)
            near = block.near_keep().expand(block.chunks, -1, -1)
            for i, keys, keep in zip(places, block.near_keys(), near, strict=True):
                seen[row, i[:, None], keys] += keep
            for stretch, ruled in block.far_stretches():
                keys = plan.packed_positions[row, stretch]
                shape = (block.chunks, block.chunk, len(keys))
                keep = torch.ones(shape, dtype=torch.bool) if ruled is None else ruled
                seen[row, places[..., None], keys] += keep
                if ruled is not None:
                    assert torch.equal(block.far_some(), keep.any(dim=-1))
    return seen[:, plan.seq - queries :]


@pytest.mark.parametrize("span", [128, 512])
@pytest.mark.parametrize("name", hard_cases())
def test_every_key_of_the_rule_once(name: str, span: int) -> None:
    case = hard_cases()[name]
    queries = case.queries or case.ids.shape[1]
    plan = build_plan(case.config, case.ids, **case.rows)
    assert torch.equal(_times_seen(plan, queries, span), case.mask()[:, -queries:].long())


@pytest.mark.parametrize("window", [1, 64, 300, 700])
def test_long_texts_with_several_chunks_to_a_block(window: int) -> None:
    plan = build_plan(sep(window=window), text(2, 1500, share=0.3))
    assert torch.equal(_times_seen(plan, 1500, 512), plan.dense_mask.long())
    if window < 512:
        assert max(block.chunks for block in blocks_of(plan, 1500, 512)[0]) > 1


def test_most_gathered_keys_need_no_mask() -> None:
    plan = build_plan(sep(window=64), text(1, 8192))
    stretches = [s for block in blocks_of(plan, 8192, 512)[0] for s in block.far_stretches()]
    plain = sum(s.stop - s.start for s, keep in stretches if keep is None)
    assert plain > 3 * sum(s.stop - s.start for s, keep in stretches if keep is not None)


def test_blocks_are_worked_out_once() -> None:
    plan = build_plan(sep(), text(1, 300))
    assert blocks_of(plan, 300, 512) is blocks_of(plan, 300, 512)
    assert blocks_of(plan, 300, 512) is not blocks_of(plan, 300, 128)


def test_a_limit_leaves_out_what_nobody_sees() -> None:
    limited = build_plan(sep(window=64, max_separators=32), text(1, 8192))
    assert torch.equal(_times_seen(limited, 2048, 512), limited.mask_for(2048).long())
    keys = [s.stop - s.start for block in blocks_of(limited, 8192, 512)[0] for s, _ in block.far_stretches()]
    blocks = len(blocks_of(limited, 8192, 512)[0])
    assert sum(keys) < blocks * (3 + 32 + 512 * 0.3)  # initial, newest, and those that leave the window meanwhile

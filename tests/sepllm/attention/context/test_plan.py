"""The plan of a rank: what it needs from others, and the shorter texts that its stretches become."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sepllm.attention.context.plan import build_context_plan, exchanged_keys
from sepllm.attention.context.split import split_text
from sepllm.attention.plan import build_plan
from tests.sepllm.attention.brute_force import Case, sep, text
from tests.sepllm.attention.test_rule import situations


@given(situations(), st.integers(1, 4))
@settings(max_examples=100)
def test_ranks_receive_what_their_queries_see_and_no_more(case: Case, ranks: int) -> None:
    seq = case.ids.shape[1]
    ranks = min(ranks, seq)
    split = split_text(seq, ranks, "zigzag" if seq >= 2 * ranks else "contiguous")
    plan, mask = build_plan(case.config, case.ids, **case.rows), case.mask()
    plans = [build_context_plan(plan, split, rank) for rank in range(ranks)]
    for rank, own in enumerate(split.positions(rank) for rank in range(ranks)):
        seen = mask[:, own].any(dim=1)  # [batch, seq]
        seen[:, own] = False
        for peer in range(ranks):
            assert plans[rank].received[peer] == int(seen[:, split.positions(peer)].sum())
            assert plans[rank].received[peer] == plans[peer].sent[rank]
    assert exchanged_keys(plan, split).tolist() == [list(own.received) for own in plans]


@given(situations(), st.integers(1, 4))
@settings(max_examples=100)
def test_the_rule_over_gathered_keys_is_the_rule_over_the_text(case: Case, ranks: int) -> None:
    seq = case.ids.shape[1]
    ranks = max(1, min(ranks, seq // 2))
    split = split_text(seq, ranks, "zigzag" if seq > 1 else "contiguous")
    plan, mask = build_plan(case.config, case.ids, **case.rows), case.mask()
    for rank in range(ranks):
        for stretch in build_context_plan(plan, split, rank).stretches:
            local = stretch.plan.mask_for(stretch.end - stretch.first)
            for row, padding in enumerate(stretch.plan.padding.tolist()):  # type: ignore[union-attr]  # always set
                keys = stretch.positions[row, padding:]
                assert torch.equal(local[row, :, padding:], mask[row, stretch.first : stretch.end][:, keys])
                assert not local[row, :, :padding].any()
                assert local[row].sum() == mask[row, stretch.first : stretch.end].sum()


def test_only_separators_and_the_window_cross() -> None:
    """On one row of 64 with two ranks, rank 0 holds 0..15 and 48..63, rank 1 the middle."""
    ids = torch.full((1, 64), 9)
    ids[0, [5, 20, 30, 46, 60]] = 1
    plan = build_plan(sep(window=4, init_tokens=2), ids)
    first, second = (build_context_plan(plan, split_text(64, 2), rank) for rank in (0, 1))
    assert second.received == (2 + 1 + 3, 0)  # two initial tokens, the separator at 5, the window 13, 14, 15
    assert first.received == (0, 2 + 3)  # separators at 20 and 30, the window 45, 46, 47, which holds that at 46
    assert first.stretches[1].positions.tolist() == [[0, 1, 5, 20, 30, 45, 46, 47, *range(48, 64)]]


def test_a_softmax_that_sees_hidden_scores_needs_every_key() -> None:
    plan = build_plan(sep(), text(2, 64))
    for rank in (0, 1):
        received = build_context_plan(plan, split_text(64, 2), rank, sees_all=True).received
        assert received == ((0, 2 * 32) if rank == 0 else (2 * 16, 0))

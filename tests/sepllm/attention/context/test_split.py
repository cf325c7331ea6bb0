"""Splits: every position on one rank, ranks of equal length, nearly equal work."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sepllm.attention.context.plan import rank_pairs
from sepllm.attention.context.split import split_text
from sepllm.attention.plan import build_plan
from sepllm.errors import ConfigError, ShapeError
from tests.sepllm.attention.brute_force import sep, text


@given(st.integers(1, 300), st.integers(1, 9), st.sampled_from(["zigzag", "contiguous"]))
def test_every_position_is_held_once(seq: int, ranks: int, kind: str) -> None:
    if seq < ranks * (2 if kind == "zigzag" else 1):
        with pytest.raises(ShapeError, match=str(seq)):
            split_text(seq, ranks, kind)
        return
    split = split_text(seq, ranks, kind)
    held = [split.positions(rank) for rank in range(ranks)]
    assert torch.equal(torch.cat(held).sort().values, torch.arange(seq))
    assert all(len(own) == split.length(rank) and own.diff().gt(0).all() for rank, own in enumerate(held))
    assert max(map(len, held)) - min(map(len, held)) <= 2
    if seq % (2 * ranks) == 0:
        assert len({len(own) for own in held}) == 1


def test_zigzag_pairs_the_ends() -> None:
    assert split_text(16, 2).stretches == (((0, 4), (12, 16)), ((4, 12),))
    assert split_text(6, 1).stretches == (((0, 6),),)
    assert split_text(16, 2, "contiguous").stretches == (((0, 8),), ((8, 16),))


def test_zigzag_evens_out_the_work() -> None:
    plan = build_plan(sep(window=16), text(4, 2048))
    imbalance = {}
    for kind in ("zigzag", "contiguous"):
        pairs = rank_pairs(plan, split_text(2048, 4, kind)).double()
        assert pairs.sum() == plan.kept_pairs.sum()
        imbalance[kind] = float(pairs.max() / pairs.mean())
    assert imbalance["zigzag"] < 1.05 < 1.4 < imbalance["contiguous"]


def test_an_unknown_kind_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"'zig'.*Did you mean 'zigzag'"):
        split_text(16, 2, "zig")

"""Borders of a split: GPT-NeoX's where those make sense, and never a leak, a negative border or a lost share."""

import json
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from megatron.data.splits import parse_split, rounded_borders, split_borders
from megatron.errors import SettingsError
from tests.helpers.shared import shared_folder

shares_strategy = st.lists(st.sampled_from([0, 0, 1, 2, 30, 969, 0.5]), min_size=1, max_size=3).filter(any)


@given(shares_strategy, st.integers(0, 400))
def test_sets_are_disjoint_complete_and_not_starved(shares: list[float], documents: int) -> None:
    borders = split_borders(",".join(map(str, shares)), documents)
    assert (borders[0], borders[3]) == (0, documents)
    assert borders == sorted(borders)
    sizes = [end - start for start, end in pairwise(borders)]
    shares = [*shares, 0, 0][:3]
    assert all(size == 0 for share, size in zip(shares, sizes, strict=True) if share == 0)
    filled = sum(size > 0 for size in sizes)
    assert filled == min(documents, sum(share > 0 for share in shares))
    if 0 < documents < sum(share > 0 for share in shares):
        weakest = min(share for share, size in zip(shares, sizes, strict=True) if size)
        assert all(share <= weakest for share, size in zip(shares, sizes, strict=True) if not size)


@given(shares_strategy, st.integers(500, 10**9))
def test_large_sets_get_their_shares(shares: list[float], documents: int) -> None:
    borders = split_borders("/".join(map(str, shares)), documents)
    for share, (start, end) in zip([*shares, 0, 0][:3], pairwise(borders), strict=True):
        assert abs((end - start) - share / sum(shares) * documents) <= 2


@pytest.mark.parametrize(
    ("split", "documents", "borders"),
    [
        ("969, 30, 1", 1, [0, 1, 1, 1]),
        ("969, 30, 1", 2, [0, 1, 2, 2]),
        ("969, 30, 1", 3, [0, 1, 2, 3]),
        ("969, 30, 1", 271, [0, 262, 270, 271]),
        ("0,1,1", 3, [0, 0, 1, 3]),
        ("0,1,1", 1, [0, 0, 1, 1]),
        ("0,1,1", 5, [0, 0, 3, 5]),
        ("1", 5, [0, 5, 5, 5]),
        ("1, 1, 1", 0, [0, 0, 0, 0]),
    ],
)
def test_few_documents(split: str, documents: int, borders: list[int]) -> None:
    assert split_borders(split, documents) == borders


def test_original_rule() -> None:
    assert rounded_borders((1, 1, 1), 10) == [0, 4, 7, 10]
    assert rounded_borders((969, 30, 1), 271) == [0, 263, 271, 271]
    assert rounded_borders((0, 1, 1), 3) == [0, 0, 1, 3]


@pytest.mark.parametrize("split", ["a,b", "", "1,-1", "0,0,0", "1;2", "nan", "inf,1"])
def test_unreadable_splits_are_shown(split: str) -> None:
    with pytest.raises(SettingsError, match="split: "):
        parse_split(split)


def test_goldens() -> None:
    cases = json.loads((shared_folder("reference", "goldens_data") / "expect.json").read_text())["splits"]
    for case in cases:
        if min(case["index"]) >= 0:
            assert rounded_borders(parse_split(case["split"]), case["size"]) == case["index"]

"""The mixture against the rule applied step by step with fractions."""

import json
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from megatron.data.blend import PARTS, Blend, integer_weights
from megatron.errors import SettingsError
from tests.helpers.shared import shared_folder

weights_strategy = st.lists(st.integers(0, 12), min_size=1, max_size=5).filter(any)


def brute_force(weights: list[int], steps: int) -> list[tuple[int, int]]:
    """At each step the set furthest behind its share; a set with weight 0 is never taken."""
    shares = [Fraction(weight, sum(weights)) for weight in weights]
    taken = [0] * len(weights)
    chosen = []
    for step in range(steps):
        lag = [share * max(step, 1) - count for share, count in zip(shares, taken, strict=True)]
        best = max((k for k in range(len(weights)) if weights[k]), key=lambda k: (lag[k], -k))
        chosen.append((best, taken[best]))
        taken[best] += 1
    return chosen


@given(weights_strategy, st.integers(0, 200))
def test_rule_step_by_step(weights: list[int], start: int) -> None:
    sets, places = Blend(weights).locate(np.arange(start, start + 60))
    assert list(zip(sets.tolist(), places.tolist(), strict=True)) == brute_force(weights, start + 60)[start:]


@given(weights_strategy, st.integers(0, 10**15))
def test_far_positions_keep_the_shares(weights: list[int], position: int) -> None:
    sets, places = Blend(weights).locate(np.array([position]))
    share = Fraction(weights[sets[0]], sum(weights))
    # No set is ever a whole sample ahead, and what the others are ahead is all that one can lag behind.
    assert -len(weights) < int(places[0]) - share * position <= 1


@pytest.mark.parametrize(
    ("weights", "whole"),
    [
        ([0.1, 0.2, 0.7], (1, 2, 7)),
        ([1 / 3, 2 / 3], (1, 2)),
        ([5.0], (1,)),
        ([0.0, 3.0], (0, 1)),
        ([0.00001, 0.99999], (1, 99999)),
        ([1e-9, 1], (1, 99999)),
        ([134318121, 1], (99999, 1)),
        ([2, 1, 1], (2, 1, 1)),
    ],
)
def test_whole_weights(weights: list[float], whole: tuple[int, ...]) -> None:
    assert integer_weights(weights) == whole


@given(st.lists(st.floats(1e-6, 1e6), min_size=1, max_size=8))
def test_rounding_of_odd_weights_is_small(weights: list[float]) -> None:
    whole = integer_weights(weights)
    assert min(whole) > 0
    assert sum(whole) <= PARTS
    for weight, part in zip(weights, whole, strict=True):
        assert abs(part / sum(whole) - weight / sum(weights)) <= len(weights) / PARTS


@pytest.mark.parametrize("weights", [[], [0, 0], [-1, 2], [float("inf"), 1], [float("nan")]])
def test_impossible_weights(weights: list[float]) -> None:
    with pytest.raises(SettingsError, match="data weights"):
        Blend(weights)


def test_goldens() -> None:
    """GPT-NeoX computes in floats: ties may fall otherwise (blend02), and it takes a set of weight 0 once (blend07)."""
    folder = shared_folder("reference", "goldens_data")
    maps = np.load(folder / "index_maps.npz")
    for case in json.loads((folder / "expect.json").read_text())["blending"]:
        if case["id"] == "blend07":
            continue
        sets, places = Blend(case["weights"]).locate(np.arange(case["size"]))
        assert np.bincount(sets).tolist() == case["counts"]
        if case["id"] != "blend02":
            assert np.array_equal(sets, maps[f"{case['id']}/dataset_index"])
            assert np.array_equal(places, maps[f"{case['id']}/dataset_sample_index"])

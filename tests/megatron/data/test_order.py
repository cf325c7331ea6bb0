"""The permutation is one to one, differs between epochs, sets and seeds, and looks like chance."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from megatron.data.order import SampleOrder


@given(st.integers(1, 3000), st.integers(0, 2**40), st.integers(0, 5), st.text(max_size=8))
def test_every_epoch_is_a_permutation(size: int, seed: int, epoch: int, name: str) -> None:
    order = SampleOrder(size, seed, name)
    samples = order.samples_at(np.arange(epoch * size, (epoch + 1) * size))
    assert sorted(samples.tolist()) == list(range(size))


@given(st.integers(1, 2**62), st.integers(0, 2**63 - 1), st.integers(0, 2**64))
def test_large_sets_stay_in_bounds_and_positions_can_be_asked_alone(size: int, position: int, seed: int) -> None:
    order = SampleOrder(size, seed)
    together = order.samples_at(np.array([position, position // 2, position]))
    assert together.min() >= 0
    assert together.max() < size
    assert order.sample_at(position) == together[0] == together[2]
    assert order.sample_at(position // 2) == together[1]


def test_neighbours_of_a_pile_sized_set_do_not_collide() -> None:
    samples = SampleOrder(101_000_000, seed=1234).samples_at(np.arange(200_000))
    assert len(np.unique(samples)) == len(samples)
    assert abs(samples.mean() / 101_000_000 - 0.5) < 0.01


def test_seed_epoch_and_name_each_change_the_order() -> None:
    orders = [
        SampleOrder(500, 1, "train/0").samples_at(np.arange(500)),
        SampleOrder(500, 1, "train/0").samples_at(np.arange(500, 1000)),
        SampleOrder(500, 2, "train/0").samples_at(np.arange(500)),
        SampleOrder(500, 1, "train/1").samples_at(np.arange(500)),
    ]
    for number, first in enumerate(orders):
        for second in orders[:number]:
            assert (first == second).mean() < 0.05


def test_places_are_used_evenly() -> None:
    """Where sample 0..9 of ten goes, over many seeds: no cell of the table far from its expectation (chi-square)."""
    rounds, size = 3000, 10
    counts = np.zeros((size, size))
    for seed in range(rounds):
        counts[np.arange(size), SampleOrder(size, seed).samples_at(np.arange(size))] += 1
    chi_square = ((counts - rounds / size) ** 2 / (rounds / size)).sum()
    assert 40 < chi_square < 140  # 81 degrees of freedom: mean 81, deviation 12.7


def test_the_order_is_fixed_for_ever() -> None:
    """Checkpoints count on it: what stands here may never change."""
    assert SampleOrder(10, 1234, "train/0").samples_at(np.arange(20)).tolist() == [
        2,
        5,
        4,
        6,
        9,
        1,
        3,
        7,
        8,
        0,
        5,
        4,
        3,
        2,
        6,
        7,
        0,
        9,
        8,
        1,
    ]


def test_mistakes_of_the_caller() -> None:
    with pytest.raises(ValueError, match="at least one sample"):
        SampleOrder(0, 1)
    with pytest.raises(IndexError, match="-1"):
        SampleOrder(3, 1).sample_at(-1)

"""Axes have round numbers, and thinning keeps the mean."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from megatron.report.chart import Chart, Line, quantile, short, thinned, ticks


@given(low=st.floats(-1e12, 1e12), span=st.floats(1e-6, 1e12), about=st.integers(2, 12))
def test_ticks_are_round_inside_and_about_as_many_as_asked(low: float, span: float, about: int) -> None:
    high = low + span
    if not high - low > 1e-9 * max(abs(low), abs(high)):
        return  # nothing that a float could tell apart
    found = ticks(low, high, about)
    assert len(found) <= about + 2
    assert all(low - 1e-6 * span <= tick <= high + 1e-6 * span for tick in found)
    if len(found) > 1:
        step = (found[-1] - found[0]) / (len(found) - 1)
        mantissa = step / 10.0 ** math.floor(math.log10(step) + 1e-9)
        assert min(abs(mantissa - whole) for whole in (1, 2, 5, 10)) < 1e-3


def test_ticks_of_layers_are_whole() -> None:
    assert ticks(1, 3, about=8, whole=True) == [1, 2, 3]


@pytest.mark.parametrize(
    ("value", "step", "text"),
    [
        (0.25, 0.05, "0.25"),
        (1500, 0, "1.5k"),
        (3e8, 0, "300M"),
        (2e18, 0, "2e+18"),
        (0, 0, "0"),
        (2.0, 0.5, "2.0"),
        (0.0015, 5e-4, "1.5e-3"),
    ],
)
def test_short_numbers(value: float, step: float, text: str) -> None:
    assert short(value, step) == text


def test_shares_are_shown_in_percent() -> None:
    assert short(0.25, 0.05, percent=True) == "25%"
    assert short(0.1234, 0.005, percent=True) == "12.3%"


def test_thinning_takes_means_of_neighbours() -> None:
    x, y = thinned(range(10), [0.0, 2.0] * 5, most=5)
    assert (x, y) == ((0.5, 2.5, 4.5, 6.5, 8.5), (1.0,) * 5)
    assert thinned([1, 2], [3, 4], most=5) == ((1, 2), (3, 4))


def test_bounds_hold_all_points_and_are_never_empty() -> None:
    assert quantile([3, 1, 2, 4], 0.5) == 3
    flat = Chart("c", "t", "x", "y", (Line("a", (1.0,), (2.0,), 0),))
    left, right, low, high = flat.bounds()
    assert left < 1.0 < right and low < 2.0 < high
    left, right, low, high = Chart("c", "t", "x", "y", ()).bounds()
    assert left < right and low < high
    nan = Chart("c", "t", "x", "y", (Line("a", (0.0, 1.0, 2.0), (1.0, math.nan, 3.0), 0),), left=-1.0)
    assert nan.bounds()[0] == -1.0 and nan.bounds()[3] > 3.0

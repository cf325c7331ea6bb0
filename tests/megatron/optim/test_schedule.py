"""The learning rate at its corners, and as a function without jumps."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from megatron.optim.schedule import Schedule

STYLES = ["constant", "linear", "cosine", "exponential"]


def test_corners_of_the_cosine() -> None:
    schedule = Schedule("cosine", max_lr=1.0, min_lr=0.1, warmup_steps=10, decay_steps=110)
    assert schedule.lr(1) == pytest.approx(0.1)  # the first update learns, and not at full speed
    assert schedule.lr(10) == pytest.approx(1.0)
    assert schedule.lr(60) == pytest.approx(0.55)
    assert schedule.lr(110) == pytest.approx(0.1)
    assert schedule.lr(10_000) == pytest.approx(0.1)


@pytest.mark.parametrize(("style", "end"), [("constant", 1.0), ("linear", 0.1), ("cosine", 0.1), ("exponential", 0.5)])
def test_end_of_each_style(style: str, end: float) -> None:
    assert Schedule(style, 1.0, 0.1, 0, 100).lr(100) == pytest.approx(end)


@given(
    style=st.sampled_from(STYLES),
    warmup=st.integers(0, 50),
    length=st.integers(1, 200),
    floor=st.floats(0, 1),
    update=st.integers(1, 400),
)
def test_stays_in_bounds_and_never_rises_after_warmup(
    style: str, warmup: int, length: int, floor: float, update: int
) -> None:
    schedule = Schedule(style, max_lr=1.0, min_lr=floor, warmup_steps=warmup, decay_steps=warmup + length)
    lr = schedule.lr(update)
    assert 0 <= lr <= 1.0 + 1e-12
    if update >= warmup:
        assert lr >= min(floor, 1.0) - 1e-12
        assert schedule.lr(update + 1) <= lr + 1e-12
    assert math.isfinite(lr)

"""The learning rate at its corners, and as a function without jumps."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from megatron.optim.schedule import Schedule

STYLES = ["constant", "linear", "cosine", "exponential", "inverse_sqrt", "wsd"]


def test_corners_of_the_cosine() -> None:
    schedule = Schedule("cosine", max_lr=1.0, min_lr=0.1, warmup=10, end=110)
    assert schedule.lr(1) == pytest.approx(0.1)  # the first update learns, and not at full speed
    assert schedule.lr(10) == pytest.approx(1.0)
    assert schedule.lr(60) == pytest.approx(0.55)
    assert schedule.lr(110) == pytest.approx(0.1)
    assert schedule.lr(10_000) == pytest.approx(0.1)


@pytest.mark.parametrize(("style", "end"), [("constant", 1.0), ("linear", 0.1), ("cosine", 0.1), ("exponential", 0.5)])
def test_end_of_each_style(style: str, end: float) -> None:
    assert Schedule(style, 1.0, 0.1, 0, 100).lr(100) == pytest.approx(end)


def test_inverse_root() -> None:
    schedule = Schedule("inverse_sqrt", 1.0, 0.1, warmup=100, end=200)
    assert [schedule.lr(place) for place in (50, 100, 400, 10_000, 10**9)] == pytest.approx([0.5, 1.0, 0.5, 0.1, 0.1])


@pytest.mark.parametrize(("shape", "middle"), [("linear", 0.5), ("cosine", 0.5), ("sqrt", 1 - math.sqrt(0.5))])
def test_warmup_stable_decay(shape: str, middle: float) -> None:
    schedule = Schedule("wsd", 1.0, 0.0, warmup=10, end=100, final_decay=20, final_style=shape)
    assert [schedule.lr(place) for place in (5, 10, 80, 90, 100, 101)] == pytest.approx([0.5, 1, 1, middle, 0, 0])


@given(st.integers(1, 300), st.integers(1, 100), st.integers(1, 200))
def test_a_decay_branches_from_any_step_of_the_stable_part(branch: int, decay: int, place: int) -> None:
    """Another end moves the decay and nothing before it: what was trained until then is a run with that end, too."""
    long = Schedule("wsd", 1.0, 0.0, warmup=10, end=1000, final_decay=200)
    short = Schedule("wsd", 1.0, 0.0, warmup=10, end=10 + branch + decay, final_decay=decay)
    if place <= 10 + branch:
        assert short.lr(place) == long.lr(place)
    assert short.lr(10 + branch + decay) == 0.0


@given(
    style=st.sampled_from(STYLES),
    warmup=st.integers(0, 50),
    length=st.integers(1, 200),
    share=st.floats(0, 1),
    shape=st.sampled_from(["linear", "cosine", "sqrt"]),
    floor=st.floats(0, 1),
    place=st.integers(1, 400),
)
def test_stays_in_bounds_and_never_rises_after_warmup(
    style: str, warmup: int, length: int, share: float, shape: str, floor: float, place: int
) -> None:
    warmup = max(warmup, int(style == "inverse_sqrt"))
    schedule = Schedule(style, 1.0, floor, warmup, warmup + length, max(1.0, share * length), shape)
    lr = schedule.lr(place)
    assert 0 <= lr <= 1.0 + 1e-12
    if place >= warmup:
        assert lr >= floor - 1e-12 or style == "constant"
        assert schedule.lr(place + 1) <= lr + 1e-12
    else:
        assert schedule.lr(place + 1) > lr


@given(style=st.sampled_from(STYLES), shape=st.sampled_from(["linear", "cosine", "sqrt"]), place=st.floats(1, 1500))
def test_has_no_jumps(style: str, shape: str, place: float) -> None:
    """A step of a millionth changes it by little: at most what the steepest piece (the root's start) changes."""
    schedule = Schedule(style, 1.0, 0.1, warmup=100, end=1000, final_decay=200, final_style=shape)
    steepest = math.sqrt(1e-4 / 200) if (style, shape) == ("wsd", "sqrt") else 1e-5
    assert abs(schedule.lr(place + 1e-4) - schedule.lr(place)) <= steepest

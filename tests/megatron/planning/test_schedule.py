"""The simulated pipeline: its bubble is the known one, and no box begins before what it needs."""

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from megatron.planning.picture import picture
from megatron.planning.schedule import most_in_flight, order_of, simulate


@pytest.mark.parametrize(("stages", "micros"), [(1, 4), (2, 1), (4, 8), (8, 64), (3, 100)])
def test_bubble_of_even_stages(stages: int, micros: int) -> None:
    """(p - 1) / (m + p - 1) of the time is spent waiting (arXiv 2104.04473, section 2.2)."""
    found = simulate([1.0] * stages, [2.0] * stages, micros)
    assert found.seconds == pytest.approx(3 * (micros + stages - 1))
    assert found.bubble == pytest.approx((stages - 1) / (micros + stages - 1))


@settings(max_examples=40)
@given(
    forward=st.lists(st.floats(0.1, 5), min_size=1, max_size=5),
    backward=st.lists(st.floats(0.1, 5), min_size=5, max_size=5),
    micros=st.integers(1, 8),
    send=st.floats(0, 1),
)
def test_every_box_waits_for_its_input(forward: list[float], backward: list[float], micros: int, send: float) -> None:
    stages = len(forward)
    found = simulate(forward, backward[:stages], micros, send)
    ends = {(box.kind, box.stage, box.micro): box.end for box in found.boxes}
    assert len(ends) == 2 * stages * micros
    for box in found.boxes:
        if box.kind == "forward" and box.stage:
            assert box.start >= ends["forward", box.stage - 1, box.micro] + send - 1e-9
        if box.kind == "backward":
            assert box.start >= ends["forward", box.stage, box.micro] - 1e-9
            if box.stage < stages - 1:
                assert box.start >= ends["backward", box.stage + 1, box.micro] + send - 1e-9
    for stage in range(stages):
        own = sorted((box.start, box.end) for box in found.boxes if box.stage == stage)
        assert all(earlier[1] <= later[0] + 1e-9 for earlier, later in pairwise(own))


def test_a_long_step_goes_on_at_the_pace_of_the_slowest_stage() -> None:
    """What is continued beyond the simulated part equals the whole simulation."""
    forward, backward = [1.0, 2.0, 1.5], [2.0, 3.0, 2.5]
    for micros in (13, 40):
        longer, shorter = simulate(forward, backward, micros + 1), simulate(forward, backward, micros)
        assert longer.seconds - shorter.seconds == pytest.approx(5.0)


def test_as_many_in_flight_as_the_order_says() -> None:
    for stages, micros in ((1, 3), (4, 2), (4, 8)):
        for stage in range(stages):
            held = most = 0
            for kind, _ in order_of(stage, stages, micros):
                held += 1 if kind == "forward" else -1
                most = max(most, held)
            assert most == most_in_flight(stage, stages, micros)


def test_the_picture_has_a_box_for_each_pass() -> None:
    found = simulate([1.0, 1.0], [2.0, 2.0], 3)
    text = picture(found, "two <stages>")
    assert text.count("<title>") == len(found.boxes) == 12
    assert "two &lt;stages&gt;" in text and "25.0% of the passes" in text

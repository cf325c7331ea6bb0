"""The batch ramp against a walk through the run, one step at a time."""

from fractions import Fraction

from hypothesis import given
from hypothesis import strategies as st

from megatron.neox_arguments.batch_plan import BatchPlan, batch_plan


@st.composite
def plans(draw) -> BatchPlan:
    unit, stages = draw(st.integers(1, 8)), draw(st.integers(0, 6))
    start, increment = unit * draw(st.integers(1, 5)), unit * draw(st.integers(1, 4))
    return batch_plan(start + stages * increment, unit, [start, increment, draw(st.integers(1, 500))])


def walk(plan: BatchPlan, consumed: int, updates: int) -> list[int]:
    """Samples behind each of the next updates."""
    places = []
    for _ in range(updates):
        consumed += plan.size_at(consumed)
        places.append(consumed)
    return places


@given(plans())
def test_starts_small_ends_full_and_only_grows(plan):
    sizes = [plan.size_at(consumed) for consumed in range(plan.ramp_samples + 2)]
    assert (sizes == sorted(sizes) and sizes[0] == plan.start) or plan.start == plan.full
    assert sizes[-1] == plan.size_at(plan.ramp_samples) == plan.full
    for consumed in range(plan.ramp_samples):
        stage = int(Fraction(consumed, plan.ramp_samples) * plan.stages)
        assert sizes[consumed] == plan.start + stage * plan.increment


@given(plans(), st.integers(0, 600), st.integers(0, 60))
def test_counts_as_a_walk_does(plan, consumed, updates):
    places = walk(plan, consumed, updates)
    assert plan.samples(updates, consumed) == (places[-1] if places else consumed)
    for samples in (places[-1], places[-1] - 1) if places else ():
        steps = next(i for i, place in enumerate([consumed, *places]) if place >= samples)
        assert plan.updates(samples, consumed) == steps


@given(plans(), st.integers(0, 40), st.integers(0, 40))
def test_a_run_in_two_parts_is_the_run_in_one(plan, first, second):
    middle = plan.samples(first)
    assert plan.samples(second, middle) == plan.samples(first + second)
    total = plan.samples(first + second)
    assert plan.updates(total) == first + second == plan.updates(middle) + plan.updates(total, middle)


def test_without_a_ramp():
    plan = batch_plan(12, 4, None)
    assert (plan.size_at(0), plan.updates(25), plan.samples(3)) == (12, 3, 36)

"""The batch rule: exact, or refused with three valid choices."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from megatron.neox_arguments.batch import BatchError, solve_batch

sizes = st.one_of(st.none(), st.integers(1, 600))
given_sizes = st.one_of(st.none(), st.integers(1, 40))


def candidates(total, micro, accumulation, dp):
    """All exact solutions that agree with what is given, by trying them."""
    limit = 600
    return [
        (t, m, a)
        for m in ([micro] if micro else range(1, limit + 1))
        for a in ([accumulation] if accumulation else range(1, limit // m + 1))
        for t in [m * a * dp]
        if total is None or t == total
    ]


@given(total=sizes, micro=given_sizes, accumulation=given_sizes, dp=st.integers(1, 16))
def test_exact_or_refused_with_three_valid_choices(total, micro, accumulation, dp):
    try:
        result = solve_batch(total, micro, accumulation, dp)
    except BatchError as error:
        if total is None:
            assert micro is None and not error.choices
            return
        possible = candidates(total, micro, accumulation, dp)
        if micro is None and accumulation is None:
            possible = [solution for solution in possible if solution[2] == 1]
        assert not possible
        assert len(error.choices) == len({(c.total, c.micro, c.accumulation) for c in error.choices}) == 3
        for choice in error.choices:
            assert choice.total == choice.micro * choice.accumulation * dp and choice.dp_size == dp
            assert min(choice.total, choice.micro, choice.accumulation) >= 1
            assert str(choice) in str(error)
            assert solve_batch(choice.total, choice.micro, choice.accumulation, dp) == choice
            assert solve_batch(choice.total, choice.micro, None, dp) == choice
        assert str(total) in str(error)
    else:
        assert result.total == result.micro * result.accumulation * result.dp_size
        assert result.dp_size == dp
        assert total in (None, result.total) and micro in (None, result.micro)
        assert accumulation in (None, result.accumulation)


@pytest.mark.parametrize(
    ("total", "micro", "accumulation", "dp", "expected"),
    [
        (1024, 32, None, 8, (1024, 32, 4)),
        (1024, None, 4, 8, (1024, 32, 4)),
        (None, 32, 4, 8, (1024, 32, 4)),
        (1024, None, None, 8, (1024, 128, 1)),
        (None, 4, None, 2, (8, 4, 1)),
        (8, 2, 2, 2, (8, 2, 2)),
    ],
)
def test_any_two_or_the_total_or_the_micro_batch(total, micro, accumulation, dp, expected):
    result = solve_batch(total, micro, accumulation, dp)
    assert (result.total, result.micro, result.accumulation) == expected


def test_the_choices_are_near():
    with pytest.raises(BatchError, match=r"train_batch_size 1000 is not a multiple of .* = 256") as caught:
        solve_batch(1000, 32, None, 8)
    assert [(c.total, c.micro, c.accumulation) for c in caught.value.choices] == [
        (1000, 25, 5),
        (1000, 5, 25),
        (1024, 32, 4),
    ]


def test_nothing_given():
    with pytest.raises(BatchError, match="train_micro_batch_size_per_gpu"):
        solve_batch(None, None, 4, 1)


@given(total=st.integers(1, 600), micro=st.integers(1, 40), dp=st.integers(1, 16))
def test_no_valid_setting_is_nearer(total, micro, dp):
    """One choice has the wanted micro-batch and the nearest total; where the total can stay, one keeps it."""
    try:
        solve_batch(total, micro, None, dp)
    except BatchError as error:
        unit = micro * dp
        moved = min(abs(choice.total - total) for choice in error.choices if choice.micro == micro)
        assert moved == min(total % unit if total > unit else unit - total, unit - total % unit)
        if total % dp == 0:
            kept = [choice.micro for choice in error.choices if choice.total == total]
            valid = [size for size in range(1, total // dp + 1) if total // dp % size == 0]
            assert min(abs(size - micro) for size in kept) == min(abs(size - micro) for size in valid)


def test_every_offered_choice_loads(load, complaint):
    """The message's lines, written into the settings as they stand there."""
    import re

    text = complaint(train_batch_size=1000, train_micro_batch_size_per_gpu=32, num_gpus=8)
    offers = re.findall(r"train_batch_size (\d+) = train_micro_batch_size_per_gpu (\d+) x gradient_acc\w+ (\d+)", text)
    assert len(offers) == 3
    for total, micro, accumulation in offers:
        args = load(
            train_batch_size=int(total),
            train_micro_batch_size_per_gpu=int(micro),
            gradient_accumulation_steps=int(accumulation),
            num_gpus=8,
        )
        assert args.derived.train_batch_size == int(total)

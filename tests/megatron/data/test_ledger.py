"""The hash of a step: equal for equal samples in any order and layout, different for any other."""

import itertools
from collections.abc import Iterator

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from megatron.data.batch import Batch
from megatron.data.ledger import Ledger, as_hex, sample_hashes

SAMPLES = st.lists(st.tuples(st.integers(0, 300), st.integers(0, 2**40)), min_size=1, max_size=20)


def batches(*groups: list[tuple[int, int]]) -> Iterator[Batch]:
    nothing = torch.zeros(0)
    for group in groups:
        yield Batch(nothing, nothing, nothing, nothing, torch.tensor(group, dtype=torch.int64).reshape(-1, 2))


def total(*groups: list[tuple[int, int]]) -> tuple[int, int]:
    ledger = Ledger()
    assert len(list(ledger.watch(batches(*groups)))) == len(groups)
    return ledger.take()


@given(samples=SAMPLES, cut=st.integers(0, 20), random=st.randoms())
def test_only_the_samples_count(samples: list[tuple[int, int]], cut: int, random: object) -> None:
    shuffled = samples[:]
    random.shuffle(shuffled)  # type: ignore[attr-defined]  # hypothesis types it as an object
    assert total(shuffled[:cut], shuffled[cut:]) == total(samples)
    # Ranks add up their sums; those wrap round.
    one, other = total(samples[:cut])[0], total(samples[cut:])[0]
    assert as_hex(one + other) == as_hex(total(samples)[0])


@given(samples=SAMPLES, other=SAMPLES)
def test_other_samples_have_another_hash(samples: list[tuple[int, int]], other: list[tuple[int, int]]) -> None:
    assert (total(samples) == total(other)) == (sorted(samples) == sorted(other))


def test_no_two_of_many_samples_share_a_hash() -> None:
    ids = np.array(list(itertools.product(range(50), range(2000))), np.int64)
    assert len(np.unique(sample_hashes(ids))) == len(ids)


def test_steps_are_counted_apart() -> None:
    ledger = Ledger()
    stream = ledger.watch(batches([(0, 1)], [(0, 2)], [(0, 1)]))
    next(stream)
    first = ledger.take()
    next(stream)
    second = ledger.take()
    next(stream)
    assert first == ledger.take() != second
    assert ledger.take() == (0, 0)
    assert as_hex(-1) == "f" * 16

"""Weights that change on the way, and GPT-NeoX's stored blending."""

import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from megatron.data.blend import Blend
from megatron.data.index_cache import IndexCache, MemoryArrays
from megatron.data.make_parts import PartOptions, make_part
from megatron.data.mixtures import STRIDE, ChangingBlend, StoredBlend, write_blend
from megatron.data.neox_order import shares_and_samples
from megatron.data.source import SampleSource
from megatron.errors import DataError
from tests.megatron.data import neox_goldens
from tests.megatron.data.neox_goldens import helper

__all__ = ["helper"]

WEIGHTS = st.lists(st.integers(0, 5), min_size=3, max_size=3).filter(any)


@settings(max_examples=60)
@given(stages=st.lists(st.tuples(st.integers(1, 40), WEIGHTS), min_size=1, max_size=4))
def test_nothing_repeats_and_nothing_is_skipped_over_a_change(stages: list[tuple[int, list[int]]]) -> None:
    starts = np.cumsum([0, *(length for length, _ in stages)]).tolist()
    blend = ChangingBlend([(start, weights) for start, (_, weights) in zip(starts, stages, strict=False)])
    positions = np.arange(starts[-1] + 30)
    sets, places = blend.locate(positions)
    for k in range(3):
        assert places[sets == k].tolist() == list(range(np.count_nonzero(sets == k)))
    for (length, weights), start in zip(stages, starts, strict=False):
        here = sets[start : start + length]
        assert here.tolist() == Blend(weights).locate(np.arange(length))[0].tolist()
    for steps in range(0, len(positions), 7):
        assert blend.taken(steps).tolist() == np.bincount(sets[:steps], minlength=3).tolist()
    order = np.random.RandomState(0).permutation(len(positions))
    assert np.array_equal(blend.locate(positions[order])[1], places[order])


@settings(max_examples=60)
@given(weights=WEIGHTS, steps=st.integers(0, 100))
def test_taken_counts_what_locate_gives(weights: list[int], steps: int) -> None:
    blend = Blend(weights)
    sets, _ = blend.locate(np.arange(steps))
    assert blend.taken(steps).tolist() == np.bincount(sets, minlength=3).tolist()


def test_changes_far_away_cost_nothing() -> None:
    blend = ChangingBlend([(0, [1, 2]), (2**40, [1, 0])])
    sets, places = blend.locate(np.array([2**40 - 1, 2**40, 2**40 + 1]))
    assert sets.tolist()[1:] == [0, 0]
    assert places[1:].tolist() == [blend.blends[0].taken(2**40)[0], blend.blends[0].taken(2**40)[0] + 1]
    with pytest.raises(IndexError, match="negative"):
        blend.locate(np.array([-1]))
    with pytest.raises(ValueError, match="rise"):
        ChangingBlend([(0, [1]), (5, [1]), (5, [2])])


def stored(weights: list[float], size: int) -> StoredBlend:
    arrays = MemoryArrays()
    write_blend(arrays, weights, size)
    return StoredBlend(weights, arrays["sets"], arrays["counts"])


def test_golden_blending(helper: str) -> None:
    for case in neox_goldens.expected()["blending"]:
        sets, places = stored(case["weights"], case["size"]).locate(np.arange(case["size"]))
        known = neox_goldens.arrays(case["id"])
        assert np.array_equal(sets, known["dataset_index"])
        assert np.array_equal(places, known["dataset_sample_index"])


def test_counts_go_on_from_block_to_block(helper: str) -> None:
    positions = np.arange(2 * STRIDE + 100)
    sets, places = stored([0.5, 0.3, 0.2], len(positions)).locate(positions)
    for k in range(3):
        assert places[sets == k].tolist() == list(range(np.count_nonzero(sets == k)))


def test_golden_mixtures_end_to_end(helper: str) -> None:
    """Weights, sizes, index arrays, blending and reading together: every sample that GPT-NeoX served."""
    for case in neox_goldens.expected()["blended_dataset"]:
        length, wanted = case["seq_length"], case["num_samples"]
        shares, counts = shares_and_samples(case["weights"], wanted)
        assert counts == case["per_dataset_num_samples"]
        options = PartOptions("documents", "neox", "packed", True, length, case["seed"], IndexCache(None, print))
        parts = []
        for prefix, count in zip(case["prefixes"], counts, strict=True):
            dataset = neox_goldens.dataset(prefix)
            everything = (0, dataset.num_sequences)
            parts.append(make_part(dataset, None, everything, options, name="train_0", num_samples=count, hashes={}))
        source = SampleSource(parts, stored(shares, wanted), vocab_size=50277)
        text, _ = source.read(np.arange(wanted))
        assert zlib.crc32(text.astype("<i8").tobytes()) == case["crc32_first_num_samples"]
        assert source.num_samples == wanted
        with pytest.raises(DataError, match=f"built for {wanted}"):
            source.locate(np.array([wanted]))


def test_many_sets_are_kept_in_two_bytes(helper: str) -> None:
    arrays = MemoryArrays()
    write_blend(arrays, [1.0] * 300, 700)
    assert arrays["sets"].dtype == np.int16
    assert arrays["sets"][:300].tolist() == list(range(300))

"""Batches: the shift, the masks, and the same run of samples for every layout of ranks."""

import itertools
import json
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from megatron.data.batch import Batch
from megatron.data.blend import Blend
from megatron.data.indexed_dataset import IndexedDataset, IndexedDatasetWriter
from megatron.data.loader import batches, first_batches, make_batch
from megatron.data.order import SampleOrder
from megatron.data.samples import SampleStream
from megatron.data.schedule import Source
from megatron.data.source import Part, SampleSource
from tests.helpers.shared import shared_folder

SEQ = 4
NOWHERE = torch.zeros(2, 2, dtype=torch.int64)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> SampleSource:
    """Two sets whose samples start with a number of their own: 4 i in the one, 500 + 4 i in the other."""
    parts = []
    for k, size in enumerate((101, 61)):
        prefix = tmp_path_factory.mktemp("data") / f"set{k}"
        with IndexedDatasetWriter(prefix, vocab_size=1000) as writer:
            writer.add_document([500 * k + i for i in range(size)])
        stream = SampleStream(IndexedDataset(prefix), 0, 1, SEQ)
        parts.append(Part(stream, SampleOrder(len(stream), 3, str(k))))
    return SampleSource(parts, Blend([2, 1]), vocab_size=1000)


def take(source: Source, count: int, **layout: int) -> list[Batch]:
    return list(itertools.islice(batches(source, seq_length=SEQ, **layout), count))


def samples_of_steps(source: SampleSource, start: int, steps: int, dp: int, micro: int, accumulation: int) -> list[int]:
    """First tokens of all samples, in the order of steps, micro-steps, ranks, rows."""
    ranks = [
        take(source, steps * accumulation, consumed_samples=start, micro_batch_size=micro, dp_rank=rank, dp_size=dp)
        for rank in range(dp)
    ]
    return [int(row[0]) for micro_step in zip(*ranks, strict=True) for batch in micro_step for row in batch.tokens]


@settings(max_examples=60)
@given(dp=st.integers(1, 4), micro=st.integers(1, 4), accumulation=st.integers(1, 3), start=st.integers(0, 90))
def test_ranks_and_accumulation_do_not_change_the_row(
    source: SampleSource, dp: int, micro: int, accumulation: int, start: int
) -> None:
    total = dp * micro * accumulation
    found = samples_of_steps(source, start, 2, dp, micro, accumulation)
    assert found == samples_of_steps(source, start, 2 * total, 1, 1, 1)


@settings(max_examples=20)
@given(st.lists(st.tuples(st.integers(1, 3), st.integers(1, 3), st.integers(1, 3), st.integers(1, 3)), min_size=1))
def test_resuming_under_other_layouts_loses_and_repeats_nothing(
    source: SampleSource, runs: list[tuple[int, int, int, int]]
) -> None:
    """Each run stops after some steps; the next goes on from the samples consumed, with other sizes."""
    consumed, seen = 0, []
    for dp, micro, accumulation, steps in runs[:6]:
        seen += samples_of_steps(source, consumed, steps, dp, micro, accumulation)
        consumed += dp * micro * accumulation * steps
    assert seen == samples_of_steps(source, 0, consumed, 1, 1, 1)


def test_shapes_types_and_shift(source: SampleSource) -> None:
    (batch,) = take(source, 1, consumed_samples=0, micro_batch_size=3, dp_rank=0, dp_size=1)
    assert (batch.tokens.dtype, batch.labels.dtype, batch.loss_mask.dtype) == (torch.int64, torch.int64, torch.float32)
    assert batch.tokens.shape == batch.labels.shape == batch.loss_mask.shape == (3, SEQ)
    assert batch.position_ids.tolist() == list(range(SEQ))
    assert torch.equal(batch.labels, batch.tokens + 1)
    assert bool((batch.loss_mask == 1).all())


def test_nothing_is_learned_after_end_of_document(source: SampleSource) -> None:
    eod = 8
    for batch in itertools.islice(
        batches(source, seq_length=SEQ, consumed_samples=0, micro_batch_size=5, dp_rank=0, dp_size=1, eod=eod), 12
    ):
        assert torch.equal(batch.loss_mask == 0, batch.tokens == eod)


def test_memory_stays_constant(source: SampleSource) -> None:
    stream = batches(source, seq_length=SEQ, consumed_samples=0, micro_batch_size=8, dp_rank=0, dp_size=1)
    tracemalloc.start()
    for _ in range(200):
        next(stream)
    before = tracemalloc.get_traced_memory()[0]
    for _ in range(600):
        next(stream)
    grown = tracemalloc.get_traced_memory()[0] - before
    tracemalloc.stop()
    assert grown < 20_000


def test_goldens() -> None:
    for case in json.loads((shared_folder("reference", "goldens_data") / "expect.json").read_text())["get_batch"]:
        text = np.array(case["text"])
        labels = text if case["label"] is None else np.array(case["label"])
        batch = make_batch(text, labels, torch.arange(8), NOWHERE, case["eod"] if case["eod_mask_loss"] else None)
        assert batch.tokens.tolist() == case["tokens"]
        assert batch.labels.tolist() == case["labels"]
        assert batch.loss_mask.tolist() == case["loss_mask"]


class Positions:
    """Stands in for a source: what it reads at a position is the position."""

    def locate(self, positions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return np.zeros_like(positions), positions

    def read_located(self, parts: np.ndarray, samples: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return (rows := np.stack([samples, samples], axis=1)), rows


def test_golden_sampler_slices() -> None:
    """The same slices per rank as GPT-NeoX's sampler, which counts its start in iterations."""
    for case in json.loads((shared_folder("reference", "goldens_data") / "expect.json").read_text())["sampler"]:
        dp, total = case["world_size"], case["global_batch"]
        for rank, expected in enumerate(case["batches_per_rank"]):
            layout = {"micro_batch_size": total // dp, "dp_rank": rank, "dp_size": dp}
            mine = take(Positions(), len(expected), consumed_samples=case["start_iter"] * total, **layout)
            assert [batch.tokens[:, 0].tolist() for batch in mine] == expected


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 1])
def test_memory_stays_constant_over_tens_of_thousands_of_steps(source: SampleSource, workers: int) -> None:
    """An iterator that keeps its batches, as itertools.cycle does, would grow by 20 MB here."""
    layout = {"consumed_samples": 0, "micro_batch_size": 2, "dp_rank": 0, "dp_size": 1, "workers": workers}
    stream = batches(source, seq_length=SEQ, **layout)
    sizes = []
    for step in range(50_001):
        next(stream)
        if step in (10_000, 50_000):
            sizes.append(int(Path("/proc/self/statm").read_text().split()[1]) * 4096)
    stream.close()
    assert sizes[1] - sizes[0] < 4 << 20


@settings(max_examples=60)
@given(dp=st.integers(1, 4), micro=st.integers(1, 4), samples=st.integers(1, 39))
def test_first_batches_count_each_sample_once(source: SampleSource, dp: int, micro: int, samples: int) -> None:
    """Rows that count are the first samples in their order; all ranks have as many micro-batches."""
    layout = {"micro_batch_size": micro, "dp_size": dp}
    ranks = [list(first_batches(source, seq_length=SEQ, num_samples=samples, dp_rank=r, **layout)) for r in range(dp)]
    assert {len(rank) for rank in ranks} == {-(-samples // (micro * dp))}
    rows = [
        (int(row[0]), int(mask.sum()))
        for step in zip(*ranks, strict=True)
        for batch in step
        for row, mask in zip(batch.tokens, batch.loss_mask, strict=True)
    ]
    [whole] = take(source, 1, consumed_samples=0, micro_batch_size=samples, dp_rank=0, dp_size=1)
    assert [first for first, counted in rows[:samples]] == whole.tokens[:, 0].tolist()
    assert [counted for _, counted in rows] == [SEQ] * samples + [0] * (len(rows) - samples)

"""Batches for one data-parallel rank, from any position on.

What comes is a function of the source and the position alone: a micro-step takes the next micro_batch_size * dp_size
samples, rank r the r-th slice of them. Tensor- and pipeline-parallel ranks of one dp_rank read the same for themselves.
"""

from collections.abc import Generator

import numpy as np
import torch

from megatron.data.batch import Batch
from megatron.data.readers import read_ahead
from megatron.data.schedule import Schedule, Source, read_batches
from megatron.data.source import NO_LABEL


def batches(
    source: Source,
    *,
    seq_length: int,
    consumed_samples: int,
    micro_batch_size: int,
    dp_rank: int,
    dp_size: int,
    eod: int | None = None,
    workers: int = 0,
) -> Generator[Batch, None, None]:
    """Endless micro-batches, starting after `consumed_samples` samples of the whole run (all ranks together).

    eod: where given, nothing is learned from predicting what follows this token (`eod_mask_loss`). workers: processes
    that read ahead; the batches are the same for any number. They end when the generator is closed.
    """
    schedule = Schedule(consumed_samples + dp_rank * micro_batch_size, micro_batch_size, micro_batch_size * dp_size)
    position_ids = torch.arange(seq_length)
    for read in read_ahead(source, schedule, workers) if workers else read_batches(source, schedule):
        sample_ids = torch.from_numpy(np.stack([read.parts, read.samples], axis=1))
        yield make_batch(read.text, read.labels, position_ids, sample_ids, eod)


def first_batches(
    source: Source,
    *,
    seq_length: int,
    num_samples: int,
    micro_batch_size: int,
    dp_rank: int,
    dp_size: int,
    eod: int | None = None,
) -> Generator[Batch, None, None]:
    """The first num_samples samples, each once, in as many micro-batches on every rank as the longest rank needs.

    Rows past the end repeat the last sample with loss_mask 0: sums over all ranks are those of the samples alone.
    """
    step = micro_batch_size * dp_size
    starts = dp_rank * micro_batch_size + step * np.arange(-(-num_samples // step))
    positions = starts[:, None] + np.arange(micro_batch_size)
    position_ids = torch.arange(seq_length)
    for row in positions:
        parts, samples = source.locate(np.minimum(row, num_samples - 1))
        text, labels = source.read_located(parts, samples)
        labels = np.where((row < num_samples)[:, None], labels, NO_LABEL)
        yield make_batch(text, labels, position_ids, torch.from_numpy(np.stack([parts, samples], axis=1)), eod)


def make_batch(
    text: np.ndarray,
    labels: np.ndarray,
    position_ids: torch.Tensor,
    sample_ids: torch.Tensor,
    eod: int | None = None,
) -> Batch:
    """Shift by one: tokens are text[:-1], labels are labels[1:]; a negative label counts for nothing.

    text, labels: int64 [batch, seq + 1].
    """
    tokens, labels = text[:, :-1], labels[:, 1:]
    counts = labels >= 0
    if eod is not None:
        counts = counts & (tokens != eod)
    return Batch(
        tokens=torch.from_numpy(np.ascontiguousarray(tokens)),
        labels=torch.from_numpy(np.where(labels < 0, 0, labels)),
        loss_mask=torch.from_numpy(counts.astype(np.float32)),
        position_ids=position_ids,
        sample_ids=sample_ids,
    )

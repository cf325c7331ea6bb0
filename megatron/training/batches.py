"""From our Batch to what the engine pulls: inputs for the first stage, labels with their weights for the last.

The engine sums loss times weight over a micro-batch, and takes the mean over micro-batches and data-parallel ranks
(DeepSpeed). The weights make that the mean over all counted tokens of the step: 1 / tokens x micro-batches x ranks.
"""

from collections.abc import Callable, Iterator
from itertools import islice

import torch
import torch.distributed as dist
from torch import Tensor

from megatron.data.batch import Batch
from megatron.mpu.parallel_state import ParallelState

EngineBatch = tuple[Tensor, tuple[Tensor, Tensor]]


def engine_batches(
    batches: Iterator[Batch],
    micro_batches: Callable[[], int],
    parallel: ParallelState,
    *,
    average: str = "tokens",
    masked: bool = True,
) -> Iterator[EngineBatch]:
    """Yield (tokens [b, s], (labels [b, s], weights float32 [b, s])), one micro-batch at a time.

    micro_batches: how many the next step has. average: "tokens" weighs all counted tokens of a step alike;
    "micro_batches" all micro-batches (GPT-NeoX), whatever their masks leave. masked: False promises that every token
    counts, when both are the same and no step has to be read ahead to be counted.
    """
    if average == "micro_batches" or not masked:
        for batch in batches:
            yield _weighted(batch, 1 / batch.loss_mask.sum().clamp(min=1))
    while step := list(islice(batches, micro_batches())):
        counted = torch.stack([batch.loss_mask.sum(dtype=torch.float64) for batch in step]).sum()
        weight = len(step) * parallel.dp_size / _over_data_ranks(counted, parallel).clamp(min=1)
        for batch in step:
            yield _weighted(batch, weight)


def summing_batches(batches: Iterator[Batch]) -> Iterator[EngineBatch]:
    """The same with weight 1 for each token that counts: the engine's losses are sums."""
    for batch in batches:
        yield batch.tokens, (batch.labels, batch.loss_mask)


def _weighted(batch: Batch, weight: Tensor) -> EngineBatch:
    return batch.tokens, (batch.labels, (batch.loss_mask.to(weight.device) * weight).float())


def _over_data_ranks(count: Tensor, parallel: ParallelState) -> Tensor:
    """Summed over the ranks that hold the other micro-batches of this step; stays on the device, nothing waits."""
    if parallel.dp_size > 1 and parallel.pp_rank == parallel.pp_size - 1:
        count = count.to("cuda" if dist.get_backend(parallel.dp_group) == "nccl" else "cpu")
        dist.all_reduce(count, group=parallel.dp_group)
    return count

"""From our Batch to what the engine pulls: inputs for the first stage, labels with their weights for the last.

The engine sums loss times weight over a micro-batch, and takes the mean over micro-batches and data-parallel ranks
(DeepSpeed). The weights make that the mean over all counted tokens of the step: 1 / tokens x micro-batches x ranks.
Tokens are whole texts for every rank; the labels and weights of a rank in a context group are those of its positions.
"""

from collections.abc import Callable, Iterator
from itertools import islice

import torch
import torch.distributed as dist
from torch import Tensor

from megatron.data.batch import Batch
from megatron.mpu.parallel_state import ParallelState
from sepllm.attention.context.split import split_text

EngineBatch = tuple[Tensor, tuple[Tensor, Tensor]]


def engine_batches(
    batches: Iterator[Batch],
    micro_batches: Callable[[], int],
    parallel: ParallelState,
    *,
    average: str = "tokens",
    masked: bool = True,
) -> Iterator[EngineBatch]:
    """Yield (tokens [b, s], (labels [b, own], weights float32 [b, own])), one micro-batch at a time.

    micro_batches: how many the next step has. average: "tokens" weighs all counted tokens of a step alike;
    "micro_batches" all micro-batches (GPT-NeoX), whatever their masks leave. masked: False promises that every token
    counts, when both are the same and no step has to be read ahead to be counted.
    """
    if average == "micro_batches" or not masked:
        for batch in batches:
            yield _weighted(batch, 1 / batch.loss_mask.sum().clamp(min=1), parallel)
    while step := list(islice(batches, micro_batches())):
        counted = torch.stack([batch.loss_mask.sum(dtype=torch.float64) for batch in step]).sum()
        weight = len(step) * parallel.dp_size / _over_data_ranks(counted, parallel).clamp(min=1)
        for batch in step:
            yield _weighted(batch, weight, parallel)


def summing_batches(batches: Iterator[Batch], parallel: ParallelState) -> Iterator[EngineBatch]:
    """The same with weight 1 for each token that counts: the engine's losses are sums over the rank's positions."""
    for batch in batches:
        yield batch.tokens, (_own(batch.labels, parallel), _own(batch.loss_mask, parallel))


def _weighted(batch: Batch, weight: Tensor, parallel: ParallelState) -> EngineBatch:
    # The engine's mean goes over the ranks of a context group too, of which each holds a part of the sum.
    weights = batch.loss_mask.to(weight.device) * (weight * parallel.cp.size)
    return batch.tokens, (_own(batch.labels, parallel), _own(weights.float(), parallel))


def _own(tensor: Tensor, parallel: ParallelState) -> Tensor:
    """[b, s] -> [b, own]: the positions that this rank holds, all of them outside a context group."""
    if parallel.cp.size == 1:
        return tensor
    positions = split_text(tensor.shape[1], parallel.cp.size).positions(parallel.cp.rank, tensor.device)
    return tensor[:, positions]


def _over_data_ranks(count: Tensor, parallel: ParallelState) -> Tensor:
    """Summed over the ranks that hold the other micro-batches of this step; stays on the device, nothing waits."""
    if parallel.dp_size > 1 and parallel.pp_rank == parallel.pp_size - 1:
        count = count.to("cuda" if dist.get_backend(parallel.data_group) == "nccl" else "cpu")
        dist.all_reduce(count, group=parallel.data_group)
        count = count / parallel.cp.size  # all ranks of a context group counted the same texts
    return count

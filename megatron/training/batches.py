"""From our Batch to what the pipeline engine pulls: inputs for the first stage, labels for the last."""

from collections.abc import Iterator

from torch import Tensor

from megatron.data.batch import Batch

EngineBatch = tuple[Tensor, tuple[Tensor, Tensor]]


def engine_batches(batches: Iterator[Batch]) -> Iterator[EngineBatch]:
    """Yield (tokens [b, s], (labels [b, s], loss_mask [b, s])), one micro-batch at a time."""
    for batch in batches:
        yield batch.tokens, (batch.labels, batch.loss_mask)

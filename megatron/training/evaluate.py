"""Mean loss over a fixed part of a data set, the same samples at every call."""

from typing import Any

from megatron.data.from_args import DataSet
from megatron.mpu.parallel_state import ParallelState
from megatron.neox_arguments.arguments import NeoXArgs
from megatron.training.batches import engine_batches


def evaluate(engine: Any, data: DataSet, args: NeoXArgs, parallel: ParallelState) -> float:
    """Mean loss (nats per token) over up to `eval_iters` global batches from the start of `data`.

    A set smaller than that is read once, never twice.
    """
    derived = args.derived
    whole_batches = data.num_samples // derived.train_batch_size
    count = max(1, min(args.eval_iters, whole_batches))
    source = engine_batches(
        data.batches(
            consumed_samples=0,
            micro_batch_size=derived.micro_batch_size,
            dp_rank=parallel.dp_rank,
            dp_size=parallel.dp_size,
        )
    )
    total = 0.0
    for _ in range(count):
        total += float(engine.eval_batch(source))
    return total / count

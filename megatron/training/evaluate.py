"""Mean loss over the start of a held-out set, the same samples at every call and for every layout."""

from typing import Any

import torch
import torch.distributed as dist

from megatron.data.from_args import DataSet
from megatron.monitor.set_loss import SetLoss
from megatron.mpu.parallel_state import ParallelState
from megatron.neox_arguments.arguments import NeoXArgs
from megatron.training.batches import summing_batches
from megatron.training.engine import Engine


def evaluate(engine: Engine, name: str, data: DataSet, args: NeoXArgs, parallel: ParallelState) -> SetLoss:
    """The mean over all tokens that count, of up to `eval_iters` global batches; a smaller set is read once.

    Every sample counts once whatever the layout and the micro-batch: the last, partial batch is filled with rows of
    weight 0. A collective: every rank calls it.
    """
    derived = args.derived
    samples = min(data.num_samples, args.eval_iters * derived.train_batch_size)
    micro_batches = -(-samples // (derived.micro_batch_size * parallel.dp_size))
    batches = data.first_batches(
        samples, micro_batch_size=derived.micro_batch_size, dp_rank=parallel.dp_rank, dp_size=parallel.dp_size
    )
    sums = torch.zeros(2, dtype=torch.float64)  # loss, tokens

    def counted() -> Any:
        for tokens, (labels, mask) in summing_batches(batches, parallel):
            sums[1] += mask.sum()
            yield tokens, (labels, mask)

    losses = engine.eval_batch(counted(), reduce_output=None, bcast_loss=False, num_micro_batches=micro_batches)
    if parallel.pp_rank < parallel.pp_size - 1 or parallel.tp.rank > 0:
        sums.zero_()  # the last stage knows the losses, each of its tensor ranks the same ones
    else:
        sums[0] = torch.stack(losses).double().sum()
    if parallel.world_size > 1:
        sums = sums.to(engine.device)
        dist.all_reduce(sums)
    loss, tokens = sums.tolist()
    return SetLoss(name, loss / max(tokens, 1.0), int(tokens), samples)

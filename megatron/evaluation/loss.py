"""Mean loss and perplexity of a model on a held-out set: the same samples that evaluation during training reads."""

import math
from dataclasses import asdict, dataclass
from itertools import islice
from typing import Any

import torch

from megatron.data.from_args import DataSet
from megatron.model.gpt_model import GPTModel
from megatron.model.loss import language_model_loss
from megatron.mpu.parallel_state import TensorParallel
from megatron.neox_arguments.arguments import NeoXArgs


@dataclass(frozen=True)
class SetLoss:
    """loss: nats per token; tokens and samples: how many it is the mean of."""

    set: str
    loss: float
    perplexity: float
    tokens: int
    samples: int

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


@torch.inference_mode()
def mean_loss(model: GPTModel, data: DataSet, args: NeoXArgs) -> SetLoss:
    """Over up to eval_iters global batches from the start of the set; a smaller set is read once, never twice.

    Micro-batches are weighted alike, as in training, so the figure is the one a training run reports.
    """
    micro_batch = args.derived.micro_batch_size
    global_batch = args.derived.train_batch_size
    samples = max(1, min(args.eval_iters, data.num_samples // global_batch)) * global_batch
    device = next(model.parameters()).device
    batches = data.batches(consumed_samples=0, micro_batch_size=micro_batch, dp_rank=0, dp_size=1)
    total, tokens, count = 0.0, 0, samples // micro_batch
    for batch in islice(batches, count):
        targets = (batch.labels.to(device), batch.loss_mask.to(device))
        total += float(language_model_loss(model(batch.tokens.to(device)), targets, TensorParallel()))
        tokens += int(batch.loss_mask.sum())
    name, loss = {"valid": "validation"}.get(data.name, data.name), total / count
    return SetLoss(name, loss, math.exp(min(loss, 700.0)), tokens, samples)

"""Mean loss of a model on a held-out set: the same samples that evaluation during training reads."""

import torch

from megatron.data.from_args import DataSet
from megatron.model.gpt_model import GPTModel
from megatron.model.loss import weighted_loss
from megatron.monitor.set_loss import SetLoss
from megatron.mpu.parallel_state import TensorParallel
from megatron.neox_arguments.arguments import NeoXArgs


@torch.inference_mode()
def mean_loss(model: GPTModel, name: str, data: DataSet, args: NeoXArgs) -> SetLoss:
    """Over all tokens that count, of up to eval_iters global batches from the start of the set; each sample once."""
    samples = min(data.num_samples, max(1, args.eval_iters) * args.derived.train_batch_size)
    device = next(model.parameters()).device
    total, tokens = 0.0, 0
    for batch in data.first_batches(samples, micro_batch_size=args.derived.micro_batch_size, dp_rank=0, dp_size=1):
        targets = (batch.labels.to(device), batch.loss_mask.to(device))
        total += float(weighted_loss(model(batch.tokens.to(device)), targets, TensorParallel()))
        tokens += int(batch.loss_mask.sum())
    return SetLoss(name, total / max(tokens, 1), tokens, samples)

"""Mean loss of a model on a held-out set: the same samples that evaluation during training reads."""

from megatron.data.from_args import DataSet
from megatron.evaluation.scorer import Scorer
from megatron.monitor.set_loss import SetLoss
from megatron.neox_arguments.arguments import NeoXArgs


def mean_loss(scorer: Scorer, name: str, data: DataSet, args: NeoXArgs) -> SetLoss:
    """Over all tokens that count, of up to eval_iters global batches from the start of the set; each sample once."""
    samples = min(data.num_samples, max(1, args.eval_iters) * args.derived.train_batch_size)
    rows = args.derived.micro_batch_size * scorer.replicas
    total, tokens = 0.0, 0
    for batch in data.first_batches(samples, micro_batch_size=rows, dp_rank=0, dp_size=1):
        log_likelihoods, _ = scorer.log_likelihoods(batch.tokens, batch.labels)
        total -= float((log_likelihoods * batch.loss_mask).sum())
        tokens += int(batch.loss_mask.sum())
    return SetLoss(name, total / max(tokens, 1), tokens, samples)

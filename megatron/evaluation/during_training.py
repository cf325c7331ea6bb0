"""lm_eval tasks between two training steps, on the weights as they are and the ranks that hold them."""

from megatron.evaluation.model_on_ranks import shared_forward
from megatron.evaluation.scorer import Scorer
from megatron.evaluation.tasks import find_tasks, score_tasks
from megatron.neox_arguments.arguments import NeoXArgs
from megatron.training.run import Run, TaskScoring


def scoring_of_tasks(args: NeoXArgs) -> TaskScoring:
    """What the training loop calls every `eval_tasks_interval` steps; unknown tasks are found here."""
    find_tasks(args.eval_tasks or ())
    return score_during_training


def score_during_training(run: Run) -> dict[str, dict[str, float]] | None:
    """Task -> metric -> value on rank 0, None on the others. A collective; dropout is off meanwhile."""
    module = run.engine.module
    module.eval()
    try:
        # Ranks that share a text in training are replicas here, and read texts of their own.
        scorer = Scorer(shared_forward(module, run.parallel, run.args), run.tokenizer.vocab_size)
        if run.parallel.rank > 0:
            scorer.serve()
            return None
        with scorer:
            scores = score_tasks(scorer, run.tokenizer, run.args).scores
    finally:
        module.train()
    return {
        task: {metric: float(value) for metric, value in metrics.items() if isinstance(value, int | float)}
        for task, metrics in scores.items()
    }

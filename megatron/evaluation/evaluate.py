"""The story of eval.py: held-out loss of a checkpoint, then lm_eval tasks, as JSON lines and in one results file."""

import json
import sys
from collections.abc import Iterator
from typing import Any

from megatron.checkpointing.reader import CheckpointReader
from megatron.data.from_args import datasets_from_args
from megatron.errors import SettingsError
from megatron.evaluation.loss import mean_loss
from megatron.evaluation.model_on_ranks import join_ranks, model_on_ranks
from megatron.evaluation.results_file import write_results
from megatron.evaluation.scorer import Scorer
from megatron.evaluation.tasks import TaskScores, find_tasks, score_tasks
from megatron.inference.load import checkpoint_reader
from megatron.mpu.parallel_state import leave_parallel
from megatron.neox_arguments.arguments import NeoXArgs
from megatron.tokenizer.tokenizer import Tokenizer, build_tokenizer


def evaluate(args: NeoXArgs, *, untrained: bool = False) -> None:
    """Print one JSON line per held-out set and per task; run by every rank, rank 0 speaks.

    untrained: evaluate the initial weights of the settings instead of a checkpoint.
    Writes PREFIX_eval_results_TIME.json when eval_results_prefix is set, and a table of the tasks to stderr.
    """
    has_data = args.data_path is not None or bool(args.train_data_paths)
    if not has_data and not args.eval_tasks:
        raise SettingsError("Nothing to evaluate: set data_path (or the lists of data paths), eval_tasks, or both.")
    tokenizer = build_tokenizer(args.tokenizer_type, args.vocab_file, args.merge_file)
    reader = None if untrained else checkpoint_reader(args)
    parallel = join_ranks(args)
    scorer = Scorer(model_on_ranks(args, tokenizer, parallel, reader), tokenizer.vocab_size)
    if parallel.rank > 0:
        scorer.serve()
    else:
        with scorer:
            _evaluate(args, tokenizer, reader, scorer, has_data)
    leave_parallel()


def _evaluate(
    args: NeoXArgs, tokenizer: Tokenizer, reader: CheckpointReader | None, scorer: Scorer, has_data: bool
) -> None:
    if args.eval_tasks:
        find_tasks(args.eval_tasks)  # a misspelt name is found before the losses are computed
    origin = {"iteration": reader.iteration if reader else 0, "checkpoint": str(reader.folder) if reader else None}
    lines = []
    for line in _losses(args, tokenizer, scorer) if has_data else ():
        lines.append(line | origin)
        print(json.dumps(lines[-1], ensure_ascii=False), flush=True)
    tasks = score_tasks(scorer, tokenizer, args) if args.eval_tasks else TaskScores()
    for task, scores in tasks.scores.items():
        lines.append({"task": task, "scores": scores} | origin)
        print(json.dumps(lines[-1], ensure_ascii=False), flush=True)
    if tasks.table:
        print(tasks.table, file=sys.stderr, flush=True)
    if args.eval_results_prefix:
        path = write_results(args, tokenizer, reader, lines, tasks)
        print(f"Wrote {path}", file=sys.stderr, flush=True)


def _losses(args: NeoXArgs, tokenizer: Tokenizer, scorer: Scorer) -> Iterator[dict[str, Any]]:
    datasets = datasets_from_args(args, tokenizer)
    for name, data in datasets.validation():
        yield mean_loss(scorer, name, data, args).as_dict()
    if datasets.test is not None:
        yield mean_loss(scorer, "test", datasets.test, args).as_dict()

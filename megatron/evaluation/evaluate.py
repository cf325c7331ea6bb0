"""The story of eval.py: held-out loss of a checkpoint, then lm_eval tasks, as JSON lines and in one results file."""

import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from megatron.data.from_args import datasets_from_args
from megatron.errors import SettingsError
from megatron.evaluation.loss import mean_loss
from megatron.inference.load import DTYPES, checkpoint_reader, inference_config, model_from_checkpoint
from megatron.model.gpt_model import GPTModel
from megatron.neox_arguments.arguments import NeoXArgs
from megatron.tokenizer.tokenizer import Tokenizer, build_tokenizer, padded_vocab_size


def evaluate(args: NeoXArgs, *, untrained: bool = False) -> None:
    """Print one JSON line per held-out set and per task.

    untrained: evaluate the initial weights of the settings instead of a checkpoint; tasks are left out.
    Writes PREFIX_eval_results_TIME.json when eval_results_prefix is set.
    """
    results = []
    for line in _results(args, untrained):
        print(json.dumps(line, ensure_ascii=False), flush=True)
        results.append(line)
    if args.eval_results_prefix:
        path = Path(f"{args.eval_results_prefix}_eval_results_{time.strftime('%Y-%m-%d-%H-%M-%S')}.json")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps({"results": results}, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        except OSError as error:
            raise SettingsError(f"eval_results_prefix: {path} cannot be written: {error}.") from error
        print(f"Wrote {path}", file=sys.stderr, flush=True)


def _results(args: NeoXArgs, untrained: bool) -> Iterator[dict[str, Any]]:
    tokenizer = build_tokenizer(args.tokenizer_type, args.vocab_file, args.merge_file)
    reader = None if untrained else checkpoint_reader(args)
    has_data = args.data_path is not None or bool(args.train_data_paths)
    if not has_data and (untrained or not args.eval_tasks):
        raise SettingsError("Nothing to evaluate: set data_path (or the lists of data paths), eval_tasks, or both.")
    datasets = datasets_from_args(args, tokenizer) if has_data else None
    origin = {"iteration": reader.iteration if reader else 0, "checkpoint": str(reader.folder) if reader else None}
    if datasets is not None:
        on_gpu = torch.cuda.is_available()
        dtype = DTYPES[args.derived.precision] if on_gpu else torch.float32
        model = (
            model_from_checkpoint(args, reader, tokenizer, dtype) if reader else _initial_model(args, tokenizer, dtype)
        )
        model = model.to("cuda" if on_gpu else "cpu")
        held_out = [*datasets.validation(), *([("test", datasets.test)] if datasets.test is not None else [])]
        for name, data in held_out:
            yield mean_loss(model, name, data, args).as_dict() | origin
        del model
    if args.eval_tasks and reader is None:
        print("eval_tasks are not run on the untrained model.", file=sys.stderr)
    elif args.eval_tasks and reader is not None:
        from megatron.evaluation.tasks import run_tasks
        from megatron.export.export import Source

        source = Source(reader, args, tokenizer)
        device = "cuda" if torch.cuda.is_available() else "cpu"
        for task, scores in run_tasks(source, args.eval_tasks, args.derived.micro_batch_size, device).items():
            yield {"task": task, "scores": scores} | origin


def _initial_model(args: NeoXArgs, tokenizer: Tokenizer, dtype: torch.dtype) -> GPTModel:
    """The model as training would start it; initial values depend on the seed alone, not on the layout."""
    padded = padded_vocab_size(tokenizer.vocab_size, args.make_vocab_size_divisible_by, args.derived.tp_size)
    return GPTModel(inference_config(args, padded, tokenizer)).to(dtype).eval()

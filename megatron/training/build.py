"""Build the parts of a run from its settings: processes, tokenizer, data, model, engine."""

import datetime
import math

import torch

from megatron.data.from_args import DataSet, datasets_from_args
from megatron.model.config import end_of_document_from_args, model_config_from_args, separator_ids_from_args
from megatron.mpu.parallel_state import ParallelState, initialize_parallel
from megatron.mpu.random import seed_activations
from megatron.neox_arguments.arguments import NeoXArgs
from megatron.optim.schedule import schedule_from_args
from megatron.tokenizer.tokenizer import build_tokenizer, padded_vocab_size
from megatron.training.engine import build_engine
from megatron.training.reporter import Reporter
from megatron.training.run import Run
from megatron.training.saving import build_saver


def start_parallel(args: NeoXArgs) -> ParallelState:
    """Join the other ranks; every later collective gives up after `timeout_minutes`. NCCL needs GPUs: else gloo."""
    return initialize_parallel(
        args.derived.tp_size,
        args.derived.pp_size,
        backend=args.distributed_backend if torch.cuda.is_available() else "gloo",
        timeout=datetime.timedelta(minutes=args.timeout_minutes),
        cp_size=args.derived.cp_size,
    )


def build_run(args: NeoXArgs, parallel: ParallelState) -> Run:
    """Everything a run needs, nothing loaded yet. Data come first: their mistakes are the cheapest to find."""
    reporter = Reporter(args, parallel)
    tokenizer = build_tokenizer(args.tokenizer_type, args.vocab_file, args.merge_file)
    datasets = datasets_from_args(args, tokenizer)
    config = model_config_from_args(
        args,
        padded_vocab_size(tokenizer.vocab_size, args.make_vocab_size_divisible_by, args.derived.tp_size),
        separator_ids_from_args(args, tokenizer),
        end_of_document_from_args(args, tokenizer),
    )
    engine = build_engine(args, config, parallel)
    seed_activations(args.seed, parallel)
    samples = _train_samples(args, datasets.train)
    run = Run(
        args=args,
        parallel=parallel,
        reporter=reporter,
        tokenizer=tokenizer,
        datasets=datasets,
        model_config=config,
        engine=engine,
        schedule=schedule_from_args(args, samples),
        train_iters=args.train_iters or 0,
        train_samples=samples,
        saver=build_saver(args, parallel),
    )
    run.plan_length()
    return run


def _train_samples(args: NeoXArgs, data: DataSet) -> int | None:
    """Length of the run in samples; None where it is given in steps. An epoch is `data.num_samples` samples."""
    if args.train_iters is not None:
        return None
    if args.train_epochs is not None:
        return math.ceil(args.train_epochs * data.num_samples)
    assert args.derived.train_samples is not None, "check_for_training has asked for a length"
    return args.derived.train_samples

"""Build the parts of a run from its settings: processes, tokenizer, data, model, engine."""

import datetime
import math

import torch

from megatron.checkpointing.reader import CheckpointReader
from megatron.data.from_args import DataSet, datasets_from_args
from megatron.errors import CheckpointError
from megatron.model.config import end_of_document_from_args, model_config_from_args, separator_ids_from_args
from megatron.mpu.parallel_state import ParallelState, initialize_parallel
from megatron.mpu.random import seed_activations
from megatron.neox_arguments.arguments import NeoXArgs
from megatron.optim.schedule import schedule_from_args
from megatron.tokenizer.tokenizer import Tokenizer, build_tokenizer, padded_vocab_size
from megatron.training.engine import build_engine
from megatron.training.reporter import Reporter
from megatron.training.resume import checkpoint_to_load
from megatron.training.run import Run
from megatron.training.saving import build_saver
from megatron.training.warm_start import weights_to_start_from

_AFTER_WATCHDOG = 5.0


def start_parallel(args: NeoXArgs) -> ParallelState:
    """Join the other ranks. NCCL needs GPUs: else gloo.

    Collectives give up a little after `timeout_minutes`: the watchdog, which shows the stacks, is to speak first.
    """
    return initialize_parallel(
        args.derived.tp_size,
        args.derived.pp_size,
        backend=args.distributed_backend if torch.cuda.is_available() else "gloo",
        timeout=datetime.timedelta(minutes=args.timeout_minutes, seconds=_AFTER_WATCHDOG),
        cp_size=args.derived.cp_size,
        sequence_parallel=args.sequence_parallel,
    )


def build_run(args: NeoXArgs, parallel: ParallelState) -> Run:
    """Everything a run needs, nothing loaded yet. Data come first: their mistakes are the cheapest to find."""
    reporter = Reporter(args, parallel)
    tokenizer = build_tokenizer(args.tokenizer_type, args.vocab_file, args.merge_file)
    datasets = datasets_from_args(args, tokenizer)
    checkpoint = checkpoint_to_load(args, parallel, reporter)
    weights = None if checkpoint else weights_to_start_from(args, parallel, reporter)
    same_words = weights is not None and weights.tokenizer_fingerprint == tokenizer.fingerprint
    config = model_config_from_args(
        args,
        _padded_vocab_size(args, tokenizer, checkpoint or (weights if same_words else None)),
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
        checkpoint=checkpoint,
        weights=weights,
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


def _padded_vocab_size(args: NeoXArgs, tokenizer: Tokenizer, checkpoint: CheckpointReader | None) -> int:
    """That of the checkpoint, so that another tensor-parallel size does not change the model; else by the settings."""
    tp_size = args.derived.tp_size
    if checkpoint is None:
        return padded_vocab_size(tokenizer.vocab_size, args.make_vocab_size_divisible_by, tp_size)
    if checkpoint.padded_vocab_size % tp_size:
        raise CheckpointError(
            f"The vocabulary of {checkpoint.folder} has {checkpoint.padded_vocab_size} rows, which "
            f"model_parallel_size {tp_size} does not divide. Choose a size that does."
        )
    return checkpoint.padded_vocab_size

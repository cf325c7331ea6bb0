"""Build the parts of a run from its settings: processes, tokenizer, data, model, engine."""

import datetime
from pathlib import Path

from megatron.data.from_args import datasets_from_args
from megatron.model.config import model_config_from_args
from megatron.model.stages import pipeline_module
from megatron.monitor.events import EventLog
from megatron.monitor.logger import RankLogger
from megatron.mpu.parallel_state import ParallelState, initialize_parallel
from megatron.neox_arguments.arguments import NeoXArgs
from megatron.optim.schedule import schedule_from_args
from megatron.tokenizer.tokenizer import build_tokenizer, padded_vocab_size
from megatron.training.engine import build_engine
from megatron.training.run import Run
from megatron.training.state import seed_everything
from sepllm.attention.separators import separator_ids


def start_parallel(args: NeoXArgs) -> ParallelState:
    """Join the other ranks; every later collective gives up after the settings' time limit."""
    return initialize_parallel(
        args.derived.tp_size,
        args.derived.pp_size,
        backend=args.distributed_backend,
        timeout=datetime.timedelta(minutes=args.timeout_minutes),
    )


def build_run(args: NeoXArgs, parallel: ParallelState) -> Run:
    """Everything a run needs, nothing loaded yet. Data come first: their mistakes are the cheapest to find."""
    log = RankLogger(parallel.rank, parallel.world_size, args.log_dir)
    tokenizer = build_tokenizer(args.tokenizer_type, args.vocab_file, args.merge_file)
    datasets = datasets_from_args(args, tokenizer)
    separators = resolve_separators(args, tokenizer)
    config = model_config_from_args(
        args,
        padded_vocab_size(tokenizer.vocab_size, args.make_vocab_size_divisible_by, args.derived.tp_size),
        separators,
    )
    seed_everything(args.seed + parallel.pp_rank)  # tensor ranks of a stage share dropout masks
    module = pipeline_module(
        config,
        parallel,
        recompute_every=args.checkpoint_num_layers if args.checkpoint_activations else 0,
        partition_method=args.pipe_partition_method,
    )
    return Run(
        args=args,
        parallel=parallel,
        tokenizer=tokenizer,
        separator_ids=separators,
        model_config=config,
        datasets=datasets,
        engine=build_engine(args, module),
        schedule=schedule_from_args(args),
        log=log,
        events=EventLog(Path(args.save or ".") / "events.jsonl" if args.save and parallel.rank == 0 else None),
    )


def resolve_separators(args: NeoXArgs, tokenizer: object) -> tuple[int, ...]:
    """Separator ids as given, or found by the tokenizer for the strings of `separators`; empty when unused."""
    if args.separators is not None:
        return tuple(separator_ids(tokenizer.tokenize, args.separators))
    return tuple(args.derived.separator_token_ids or ())

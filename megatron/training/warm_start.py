"""A new run from given weights: step 0, fresh optimizer, and a report of what was loaded. Resuming is `resume.py`."""

from megatron.checkpointing.load import load_weights
from megatron.checkpointing.optimizer_state import load_masters_from_model
from megatron.checkpointing.reader import CheckpointReader, find_checkpoint
from megatron.checkpointing.together import Together
from megatron.checkpointing.warm_start import check_vocabulary, plan_warm_start
from megatron.mpu.parallel_state import ParallelState
from megatron.mpu.shard import shard_of
from megatron.neox_arguments.arguments import NeoXArgs
from megatron.training.reporter import Reporter
from megatron.training.run import Run


def weights_to_start_from(args: NeoXArgs, parallel: ParallelState, reporter: Reporter) -> CheckpointReader | None:
    """The checkpoint that `warm_start`, or `load` with `finetune`, names; every file verified. None without either."""
    folder = args.warm_start or (args.load if args.finetune else None)
    if folder is None:
        return None
    return CheckpointReader(find_checkpoint(folder, args.iteration, reporter.warn, Together.of(parallel)))


def warm_start(run: Run) -> None:
    """Put `run.weights` into the model, or do nothing without them.

    CheckpointError before any change when something does not fit that `warm_start_fresh` does not name.
    """
    reader = run.weights
    if reader is None:
        return
    parameters = list(run.engine.module.parameters())
    shapes: dict[str, tuple[int, ...]] = {}
    for part in Together.of(run.parallel).gather({shard_of(p).name: shard_of(p).shape for p in parameters}):
        shapes |= part
    saved = {name: reader.shape(name) for name in reader.names()}
    plan = plan_warm_start(reader.folder, saved, shapes, run.args.warm_start_fresh or ())
    check_vocabulary(reader.folder, reader.tokenizer_fingerprint, run.tokenizer.fingerprint, plan)
    load_weights(reader, [p for p in parameters if shard_of(p).name in set(plan.loaded)], run.parallel)
    load_masters_from_model(run.engine.optimizer, parameters)
    for line in plan.lines(reader.folder):
        run.reporter.say(line)
    run.reporter.event(
        "warm_start",
        folder=str(reader.folder),
        tensors=len(plan.loaded),
        weights=plan.loaded_weights,
        fresh=plan.fresh,
        unused=plan.unused,
    )

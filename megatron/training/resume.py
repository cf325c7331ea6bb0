"""From a checkpoint folder to a live run: what a resume restores, and what is refused."""

from collections.abc import Callable
from pathlib import Path

from megatron.checkpointing.folders import set_aside, step_folders, step_of
from megatron.checkpointing.load import check_complete, load_optimizer, load_weights
from megatron.checkpointing.optimizer_state import load_masters_from_model
from megatron.checkpointing.reader import CheckpointReader, find_checkpoint
from megatron.checkpointing.together import Together
from megatron.errors import CheckpointError, NumericsError
from megatron.launcher import place
from megatron.mpu.parallel_state import ParallelState
from megatron.mpu.shard import shard_of
from megatron.neox_arguments.arguments import NeoXArgs
from megatron.neox_arguments.changes import compare
from megatron.training.reporter import Reporter
from megatron.training.run import Run
from megatron.training.saving import layout, versions
from megatron.training.state import restore_rng

_RETURNS = 3  # times that a run may go back to the same checkpoint


def checkpoint_to_load(args: NeoXArgs, parallel: ParallelState, reporter: Reporter) -> CheckpointReader | None:
    """The checkpoint that `load` or `auto_resume` asks for, every file verified; None when the run starts at step 0.

    With `finetune` the folder in `load` is a warm start (`warm_start.py`), not this run's.

    Raises CheckpointError when nothing is loadable, or a setting that must match differs.
    """
    together = Together.of(parallel)
    load = None if args.finetune else args.load
    load = load or together.from_zero(lambda: _load_of_auto_resume(args))
    if load is None:
        return None
    folder = find_checkpoint(load, args.iteration, reporter.warn, together)
    together.run(lambda: _keep_newer_aside(folder, args, reporter.warn), only=0)
    reader = CheckpointReader(folder)
    _compare_settings(reader, args, reporter)
    return reader


def load_run(run: Run) -> None:
    """Restore weights, optimizer, position and generators from `run.checkpoint`, or do nothing without one."""
    args, parallel, reader = run.args, run.parallel, run.checkpoint
    if reader is None:
        return
    if args.warm_start or args.finetune:
        run.reporter.say("This run resumes: the weights it once started from are not read again.")
    folder = reader.folder
    place.at("loading")
    _check_tokenizer(reader, run)
    parameters = list(run.engine.module.parameters())
    load_weights(reader, parameters, parallel)
    own = {shard_of(parameter).name for parameter in parameters}
    check_complete(reader, set().union(*Together.of(parallel).gather(own)))
    if args.no_load_optim:
        load_masters_from_model(run.engine.optimizer, parameters)
    else:
        load_optimizer(reader, run.engine.optimizer, parameters, parallel)
    run.state.iteration = run.state.last_saved = reader.iteration
    run.state.consumed_samples = int(reader.state["consumed_samples"])
    run.state.data_position = int(reader.state.get("data_position", run.state.consumed_samples))
    run.state.left_behind = [(int(start), int(end)) for start, end in reader.state.get("left_behind", ())]
    run.state.skipped = int(reader.state["skipped"])
    run.plan_length()
    same_layout = reader.state["layout"] == layout(args)
    states = reader.rng(parallel.rank)
    random_states = states is not None and same_layout and not args.no_load_rng
    if states is not None and random_states:
        restore_rng(states)
    if reader.state["data_fingerprint"] != run.datasets.train.fingerprint:
        run.reporter.warn(f"The training data are not those of {folder}: the order of samples changes from here on.")
    age = f", saved {reader.state['saved_at']}" if "saved_at" in reader.state else ""
    run.reporter.say(
        f"Resumed from {folder}: step {run.state.iteration}, {run.state.consumed_samples} samples consumed{age}"
        + ("." if same_layout else f"; saved with {reader.state['layout']}, now {layout(args)}.")
    )
    kinds = [] if args.no_load_optim else reader.optimizer_keys()
    run.reporter.say(
        f"Loaded: {len(reader.names())} weight tensors; "
        + (f"optimizer state {', '.join(kinds)}" if kinds else "no optimizer state (fresh)")
        + ("; random states." if random_states else "; no random states (seeded anew).")
    )
    run.reporter.event(
        "loaded",
        iteration=run.state.iteration,
        folder=str(folder),
        tensors=len(reader.names()),
        optimizer=kinds,
        random_states=random_states,
    )


def go_back(run: Run) -> None:
    """Return to the newest checkpoint of this run, and leave out the samples that were read since it.

    Raises NumericsError when there is no checkpoint, or a third return to the same one.
    """
    state = run.state
    if run.saver is not None:
        run.saver.finish()
    if run.saver is None or state.last_saved is None:
        raise NumericsError(
            f"The loss jumped at step {state.iteration} and there is no checkpoint to go back to. Save more often "
            "(checkpoint_factor), or set loss_spike_action: warn."
        )
    reached, position, returns = state.iteration, state.data_position, state.returns
    run.checkpoint = CheckpointReader(
        find_checkpoint(run.saver.save, None, run.reporter.warn, Together.of(run.parallel))
    )
    load_run(run)
    state.returns = (*(step for step in returns if step == state.iteration), state.iteration)
    if len(state.returns) > _RETURNS:
        raise NumericsError(
            f"The loss jumped again after {_RETURNS} returns to step {state.iteration}. Lower lr, or look at the data "
            f"up to sample {position}."
        )
    left = (state.data_position, position)
    state.left_behind.append(left)
    state.data_position = position
    run.reporter.warn(
        f"Back from step {reached} to step {state.iteration}; samples {left[0]} to {left[1]} are left out."
    )
    run.reporter.event("rollback", iteration=state.iteration, reached=reached, left_behind=list(left))


def _compare_settings(reader: CheckpointReader, args: NeoXArgs, reporter: Reporter) -> None:
    """Stop at what must match, say what else has changed: it holds from the next step on."""
    saved = reader.state.get("resolved_settings")
    if saved is None:
        reporter.warn(f"{reader.folder} does not say all settings of its run; only the shapes are compared.")
        return
    changes = compare(saved, args, optimizer_state=not args.no_load_optim)
    if changes.must_match:
        lines = "\n".join(f"  {change}" for change in changes.must_match)
        raise CheckpointError(
            f"{reader.folder} belongs to a run with other settings (saved -> now):\n{lines}\n"
            "Set them as they were, or start a new run from its weights: warm_start in place of load, another save."
        )
    found = [str(change) for change in changes.may_change]
    now = versions()
    found += [
        f"{name} {old} -> {now.get(name)}"
        for name, old in reader.state.get("versions", {}).items()
        if old != now.get(name)
    ]
    for line in found:
        reporter.say(f"Changed since the save: {line}")
    if found:
        reporter.event("changes", iteration=reader.iteration, changes=found)


def _load_of_auto_resume(args: NeoXArgs) -> str | None:
    return args.save if args.auto_resume and args.save and step_folders(Path(args.save)) else None


def _keep_newer_aside(chosen: Path, args: NeoXArgs, warn: Callable[[str], None]) -> None:
    """In our own folder, checkpoints newer than the chosen one (damaged, or left behind on request) make way."""
    if args.save is None or chosen.parent.resolve() != Path(args.save).resolve():
        return
    for folder in step_folders(Path(args.save)):
        if (step_of(folder) or 0) > (step_of(chosen) or 0):
            aside = set_aside(folder, "damaged" if args.iteration is None else "left-behind")
            warn(f"Kept {folder.name} aside as {aside.name}.")


def _check_tokenizer(reader: CheckpointReader, run: Run) -> None:
    saved, present = reader.tokenizer_fingerprint, run.tokenizer.fingerprint
    if saved != present:
        raise CheckpointError(
            f"{reader.folder} was trained with another tokenizer (vocabulary hash {str(saved)[:12]}, "
            f"now {present[:12]}). Set vocab_file to the tokenizer of that run."
        )

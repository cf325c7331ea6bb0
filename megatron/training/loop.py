"""The training loop: steps, with reports, evaluation, saving and stopping at step edges."""

from collections.abc import Iterator
from contextlib import closing, suppress
from dataclasses import dataclass
from typing import NoReturn

from megatron.data.skipping import Skip
from megatron.errors import CheckpointError, NumericsError, StopRequested
from megatron.launcher import place
from megatron.optim.optimizer import set_learning_rate
from megatron.training.batches import EngineBatch, engine_batches
from megatron.training.engine import batch_of
from megatron.training.evaluate import evaluate
from megatron.training.meter import Meter
from megatron.training.numbers import FiniteCheck, LossSpikes
from megatron.training.profiling import StepProfiler
from megatron.training.resume import go_back
from megatron.training.run import Run
from megatron.training.saving import announce, start_save
from megatron.training.step_ledger import StepLedger
from megatron.training.stopping import StopFlag


def train(run: Run) -> None:
    """Train to `train_iters`, then evaluate and save.

    Raises NumericsError when the numbers are not finite, StopRequested after a save on a signal or `exit_interval`.
    """
    try:
        while not _train(run):
            go_back(run)
        if run.saver is not None:
            announce(run, run.saver.finish())
    except StopRequested as stop:
        run.reporter.event("stop", iteration=run.state.iteration, reason=str(stop))
        raise
    except Exception as fault:
        run.reporter.event("fault", iteration=run.state.iteration, error=type(fault).__name__, message=str(fault))
        if isinstance(fault, NumericsError) and run.saver is not None:
            with suppress(CheckpointError):  # the save under way is of an earlier, sound step
                announce(run, run.saver.finish())
        raise
    else:
        run.reporter.event("end", iteration=run.state.iteration)
    finally:
        run.reporter.close()


def _train(run: Run) -> bool:
    """Train on from where the run stands; False when a loss spike asks to go back to the last checkpoint."""
    args, state = run.args, run.state
    ledger = StepLedger(run.parallel) if args.log_sample_hashes else None
    skip = run.skip()
    read = run.datasets.train.batches(
        consumed_samples=skip.number(state.data_position),
        micro_batch_size=args.derived.micro_batch_size,
        dp_rank=run.parallel.dp_rank,
        dp_size=run.parallel.dp_size,
        skip=skip,
    )
    with (
        closing(read),
        closing(Meter(run)) as meter,
        closing(StepProfiler(run)) as profiler,
    ):  # with the first end the processes that read ahead
        batches = engine_batches(
            read if ledger is None else ledger.watch(read),
            run.engine.gradient_accumulation_steps,
            run.parallel,
            average=args.loss_average,
            masked=run.datasets.train.masked,
        )
        stop = StopFlag(run.parallel, run.engine.device)
        finite = FiniteCheck(args.skip_nonfinite_steps, adapts_scale=args.derived.precision == "fp16")
        spikes = LossSpikes(args.loss_spike_deviations)
        if state.iteration == 0 and run.saver is not None and args.derived.is_save_iteration(0):
            with meter.paused():
                start_save(run)
        while state.iteration < run.train_iters:
            before = state.data_position
            meter.before_step()
            profiler.before_step(state.iteration + 1)
            step = train_step(run, batches, skip)
            run.reporter.tick(state.iteration, run.train_iters, step.loss)
            if finite.passes(state.iteration, step.loss, step.updated, state.last_saved):
                meter.add(step.loss)
                spike = spikes.describe(step.loss)
            else:
                spike = None
                run.reporter.warn(f"Step {state.iteration} was not finite: no update.")
                run.reporter.event("skipped", iteration=state.iteration, loss=step.loss)
            if ledger is not None:
                run.reporter.event("samples", iteration=state.iteration, **ledger.step())
            if spike is not None:
                run.reporter.warn(f"Step {state.iteration}: {spike}; samples {before} to {state.data_position}.")
                run.reporter.event(
                    "spike", iteration=state.iteration, loss=step.loss, samples=[before, state.data_position]
                )
                if args.loss_spike_action == "rollback":
                    return False
            if meter.due():
                run.reporter.step(meter.report())
                run.reporter.norms(state.iteration, meter.weight_norms())
            with meter.paused():
                profiler.after_step(state.iteration)
                at_step_edge(run, stop)
    return True


@dataclass(frozen=True)
class Step:
    """loss: mean of the global batch, the same on every rank. updated: False when the engine left the weights alone."""

    loss: float
    updated: bool


def train_step(run: Run, batches: Iterator[EngineBatch], skip: Skip) -> Step:
    """One optimizer update over a global batch."""
    state = run.state
    place.at("training", state.iteration + 1)
    size = run.args.derived.batch_plan.size_at(state.consumed_samples)
    set_learning_rate(
        run.engine.optimizer.optimizer, run.learning_rate(state.iteration + 1, state.consumed_samples + size)
    )
    skipped = int(run.engine.skipped_steps)
    with batch_of(run.engine, size, run.parallel):
        loss = float(run.engine.train_batch(data_iter=batches))
    updated = int(run.engine.skipped_steps) == skipped
    state.iteration += 1
    state.consumed_samples += size
    state.data_position = skip.after(state.data_position, size)
    state.skipped += not updated
    return Step(loss, updated)


def at_step_edge(run: Run, stop: StopFlag) -> None:
    """Evaluate, save and stop where due; the same decisions on every rank."""
    args, iteration, saver = run.args, run.state.iteration, run.saver
    last = iteration == run.train_iters
    if args.eval_iters and (last or iteration % args.eval_interval == 0):
        for name, data in run.datasets.validation():
            place.at(f"evaluation on {name}")
            run.reporter.evaluation(iteration, evaluate(run.engine, name, data, args, run.parallel))
    if args.eval_iters and last and run.datasets.test is not None:
        run.reporter.evaluation(iteration, evaluate(run.engine, "test", run.datasets.test, args, run.parallel))
    if run.score_tasks is not None and args.eval_tasks_interval and iteration % args.eval_tasks_interval == 0:
        place.at("evaluation on tasks")
        scores = run.score_tasks(run)
        if scores is not None:
            run.reporter.tasks(iteration, scores)
    place.at("agreeing at the end of the step")
    agreed = stop.agreed(save_failed=saver is not None and saver.failed())
    due = not last and args.exit_interval is not None and iteration % args.exit_interval == 0
    stopping = not last and (agreed.signal is not None or due)
    if saver is not None:
        announce(run, saver.finish() if agreed.save_failed else saver.news())
        if last or stopping or args.derived.is_save_iteration(iteration):
            start_save(run)
        if stopping:
            announce(run, saver.finish())
    if stopping:
        _stop(run, f"{agreed.signal} received" if agreed.signal else f"exit_interval {args.exit_interval} reached")


def _stop(run: Run, reason: str) -> NoReturn:
    if run.saver is None:
        advice = "set save to keep what the next run learns"
    elif run.args.auto_resume:
        advice = "the same command continues"
    else:
        advice = f"continue with --set load={run.saver.save}"
    raise StopRequested(f"{reason} at step {run.state.iteration} of {run.train_iters}; {advice}.")

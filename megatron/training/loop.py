"""The training loop: one step in, one StepResult out, with evaluation, saving and stopping at step edges."""

import math
import time
from typing import Any

import torch
import torch.distributed as dist

from megatron.errors import NumericsError, StopRequested
from megatron.monitor.step_result import StepResult
from megatron.training.batches import engine_batches
from megatron.training.engine import gradient_norm, set_learning_rate
from megatron.training.evaluate import evaluate
from megatron.training.resume import save_run
from megatron.training.run import Run
from megatron.training.stopping import StopFlag


def train(run: Run) -> None:
    """Train to `train_iters`, then evaluate and save.

    Raises NumericsError when the loss is not finite, StopRequested after a save on a signal or `exit_interval`.
    """
    args, state = run.args, run.state
    stop = StopFlag(run.parallel, run.engine.device)
    batches = engine_batches(
        run.datasets.train.batches(
            consumed_samples=state.consumed_samples,
            micro_batch_size=args.derived.micro_batch_size,
            dp_rank=run.parallel.dp_rank,
            dp_size=run.parallel.dp_size,
        )
    )
    meter = _Meter(run)
    saved_at = state.iteration if args.load is not None else None
    if state.iteration == 0 and args.derived.saves_at(0):
        save(run)
        saved_at = 0
    while state.iteration < args.train_iters:
        loss = train_step(run, batches)
        meter.add(loss)
        if state.iteration % args.log_interval == 0 or state.iteration == args.train_iters:
            report_step(run, meter)
        if args.derived.do_valid and state.iteration % args.eval_interval == 0:
            with meter.paused():
                report_evaluation(run, "validation")
        if args.save is not None and args.derived.saves_at(state.iteration):
            with meter.paused():
                save(run)
            saved_at = state.iteration
        stop_at_edge(run, stop, saved_at)
    if args.derived.do_valid and state.iteration % args.eval_interval != 0:
        report_evaluation(run, "validation")
    if args.derived.do_test:
        report_evaluation(run, "test")
    if args.save is not None and saved_at != state.iteration:
        save(run)
    run.events.write("end", iteration=state.iteration)


def train_step(run: Run, batches: Any) -> float:
    """One optimizer update over a global batch; returns its mean loss, the same on every rank."""
    set_learning_rate(run.engine, run.schedule.lr(run.state.iteration + 1))
    loss = float(run.engine.train_batch(data_iter=batches))
    run.state.iteration += 1
    run.state.consumed_samples += run.args.derived.train_batch_size
    run.state.skipped = int(run.engine.skipped_steps)
    if not math.isfinite(loss):
        raise NumericsError(
            f"The loss is {loss} at step {run.state.iteration}; nothing was saved from this step. Resume from the last "
            "checkpoint with a lower lr, a longer warmup, or bfloat16 in place of fp16."
        )
    return loss


def report_step(run: Run, meter: "_Meter") -> None:
    """One line and one event for the steps since the last report. A collective: every rank calls it."""
    result = meter.result()
    if run.parallel.rank == 0:
        run.log.step(result)
        run.events.write("step", **result.as_dict())


def report_evaluation(run: Run, name: str) -> None:
    """Evaluate the named set ("validation" or "test") and report loss and perplexity."""
    data = run.datasets.valid if name == "validation" else run.datasets.test
    loss = evaluate(run.engine, data, run.args, run.parallel)
    run.log.info(f"{name} at step {run.state.iteration}: loss {loss:.4f}, perplexity {math.exp(min(loss, 50)):.2f}")
    run.events.write("evaluation", iteration=run.state.iteration, set=name, loss=loss)


def save(run: Run) -> None:
    start = time.monotonic()
    folder = save_run(run)
    run.log.info(f"Saved {folder} in {time.monotonic() - start:.1f} s")
    run.events.write("save", iteration=run.state.iteration, folder=str(folder))


def stop_at_edge(run: Run, stop: StopFlag, saved_at: int | None) -> None:
    """Leave with a save when any rank was asked to, or when `exit_interval` is due."""
    args, iteration = run.args, run.state.iteration
    signal_name = stop.agreed()
    due = args.exit_interval is not None and iteration % args.exit_interval == 0 and iteration < args.train_iters
    if signal_name is None and not due:
        return
    reason = f"{signal_name} received" if signal_name else f"exit_interval {args.exit_interval} reached"
    advice = "set save to keep the next one"
    if args.save is not None:
        if saved_at != iteration:
            save(run)
        advice = f"continue with --set load={args.save}"
    run.events.write("stop", iteration=iteration, reason=reason)
    raise StopRequested(f"Stopped at step {iteration}: {reason}; {advice}.")


class _Meter:
    """Collects losses and time between two step reports; time spent evaluating or saving does not count."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self._restart()

    def add(self, loss: float) -> None:
        self._losses.append(loss)

    def paused(self) -> "_Pause":
        return _Pause(self)

    def result(self) -> StepResult:
        run, derived = self._run, self._run.args.derived
        seconds = max(time.monotonic() - self._start - self.idle, 1e-9)
        steps = len(self._losses)
        samples = steps * derived.train_batch_size
        result = StepResult(
            iteration=run.state.iteration,
            train_iters=run.args.train_iters,
            loss=sum(self._losses) / steps,
            lr=run.schedule.lr(run.state.iteration),
            grad_norm=gradient_norm(run.engine),
            tokens_per_second=samples * run.args.seq_length / seconds,
            samples_per_second=samples / seconds,
            consumed_samples=run.state.consumed_samples,
            consumed_tokens=run.state.consumed_samples * run.args.seq_length,
            kept_ratio=_kept_ratio(run),
            seconds=seconds / steps,
            eta_seconds=(run.args.train_iters - run.state.iteration) * seconds / steps,
            skipped=run.state.skipped,
            loss_scale=float(run.engine.optimizer.cur_scale) if derived.precision == "fp16" else None,
        )
        self._restart()
        return result

    def _restart(self) -> None:
        self._losses: list[float] = []
        self._start = time.monotonic()
        self.idle = 0.0


class _Pause:
    def __init__(self, meter: _Meter) -> None:
        self._meter = meter

    def __enter__(self) -> None:
        self._entered = time.monotonic()

    def __exit__(self, *exc: object) -> None:
        self._meter.idle += time.monotonic() - self._entered


def _kept_ratio(run: Run) -> float:
    """Kept over causal query/key pairs, all layers and ranks, since the last call."""
    counts = run.engine.module.pop_attention_counts().sum(dim=0)  # [kept, causal]
    if run.parallel.world_size > 1:
        counts = counts.to(torch.float64)
        dist.all_reduce(counts)
    kept, causal = counts.tolist()
    return kept / causal if causal else 1.0

"""Losses and time between two step reports; time spent evaluating or saving does not count as training."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.distributed as dist

from megatron.monitor.step_result import StepResult
from megatron.training.engine import gradient_norm
from megatron.training.run import Run


class Meter:
    """Collects from one report to the next."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self._restart()

    def add(self, loss: float) -> None:
        """Count one step."""
        self._losses.append(loss)

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Time inside is not training time."""
        start = time.monotonic()
        yield
        self._idle += time.monotonic() - start

    def report(self) -> StepResult:
        """The mean over the steps since the last report. A collective: every rank calls it."""
        run, derived = self._run, self._run.args.derived
        steps = len(self._losses)
        seconds = max(time.monotonic() - self._start - self._idle, 1e-9) / steps
        samples_per_second = derived.train_batch_size / seconds
        result = StepResult(
            iteration=run.state.iteration,
            train_iters=run.train_iters,
            loss=sum(self._losses) / steps,
            lr=run.schedule.lr(run.state.iteration),
            grad_norm=gradient_norm(run.engine),
            tokens_per_second=samples_per_second * run.args.seq_length,
            samples_per_second=samples_per_second,
            consumed_samples=run.state.consumed_samples,
            consumed_tokens=run.state.consumed_samples * run.args.seq_length,
            kept_ratio=_kept_ratio(run),
            seconds=seconds,
            eta_seconds=(run.train_iters - run.state.iteration) * seconds,
            skipped=run.state.skipped,
            loss_scale=float(run.engine.optimizer.cur_scale) if derived.precision == "fp16" else None,
        )
        self._restart()
        return result

    def _restart(self) -> None:
        self._losses: list[float] = []
        self._idle = 0.0
        self._start = time.monotonic()


def _kept_ratio(run: Run) -> float | None:
    """Kept over causal query-key pairs since the last call, over all layers and ranks."""
    counts: torch.Tensor = run.engine.module.pop_attention_counts().sum(dim=0)  # [kept, causal]
    if run.parallel.world_size > 1:
        dist.all_reduce(counts)
    kept, causal = counts.tolist()
    return kept / causal if causal else None

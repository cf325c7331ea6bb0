"""Losses and time between two step reports; time spent evaluating or saving does not count as training."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.distributed as dist

from megatron.model.flops import forward_flops
from megatron.monitor.device_peak import peak_tflops
from megatron.monitor.peak_memory import peak_memory
from megatron.monitor.step_result import StepResult
from megatron.training.engine import gradient_norm
from megatron.training.noise_scale import NoiseScale
from megatron.training.run import Run
from megatron.training.weight_norms import WeightNorms


class Meter:
    """Collects from one report to the next."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self._noise = NoiseScale(run)
        self._norms = WeightNorms(run)
        self._restart()

    def due(self) -> bool:
        """Whether a report is due after the step that has ended: every `log_interval` steps, and at the end.

        Not when no step since the last report was sound.
        """
        return bool(self._losses) and self._steps_to_report(self._run.state.iteration) == 0

    def before_step(self) -> None:
        """Announce a step."""
        left = 1 + self._steps_to_report(self._run.state.iteration + 1)
        self._noise.before_step(left)
        if left == 1:
            self._norms.arm()

    def _steps_to_report(self, iteration: int) -> int:
        return min(-iteration % self._run.args.log_interval, self._run.train_iters - iteration)

    def add(self, loss: float) -> None:
        """Count the step. A collective: every rank calls it."""
        self._losses.append(loss)
        self._noise.after_step()

    def weight_norms(self) -> dict[str, dict[str, float]]:
        """Tag group -> weight -> value of the last step, see WeightNorms. A collective: every rank calls it."""
        return self._norms.report()

    def close(self) -> None:
        """Leave the engine without the hooks that measured it."""
        self._noise.close()
        self._norms.close()

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
        samples_per_second = (run.state.consumed_samples - self._consumed) / steps / seconds
        kept = _kept(run)
        work = _work(run, kept, tokens=(run.state.consumed_samples - self._consumed) * run.args.seq_length)
        per_second = 1 / (steps * seconds)
        result = StepResult(
            iteration=run.state.iteration,
            train_iters=run.train_iters,
            loss=sum(self._losses) / steps,
            lr=run.learning_rate(run.state.iteration, run.state.consumed_samples),
            grad_norm=gradient_norm(run.engine),
            tokens_per_second=samples_per_second * run.args.seq_length,
            samples_per_second=samples_per_second,
            consumed_samples=run.state.consumed_samples,
            consumed_tokens=run.state.consumed_samples * run.args.seq_length,
            kept_ratio=kept.ratio,
            seconds=seconds,
            eta_seconds=(run.train_iters - run.state.iteration) * seconds,
            skipped=run.state.skipped,
            loss_scale=float(run.engine.optimizer.cur_scale) if derived.precision == "fp16" else None,
            peak_memory=_peak_memory(run),
            noise_scale=self._noise.report(),
            tflops=work.tflops * per_second,
            mfu=None if work.peak is None else work.tflops * per_second / work.peak,
            hfu=None if work.peak is None else work.hardware_tflops * per_second / work.peak,
            kept_by_layer=kept.pairs_by_layer,
            kept_keys_by_layer=kept.keys_by_layer,
        )
        self._restart()
        return result

    def _restart(self) -> None:
        self._losses: list[float] = []
        self._idle = 0.0
        self._consumed = self._run.state.consumed_samples
        self._start = time.monotonic()


def _peak_memory(run: Run) -> int:
    """Of the rank that has most. A collective: every rank calls it."""
    peak = torch.tensor(peak_memory(), dtype=torch.int64, device=run.engine.device)
    if run.parallel.world_size > 1:
        dist.all_reduce(peak, op=dist.ReduceOp.MAX)
    return int(peak)


@dataclass(frozen=True)
class _Kept:
    """What attention kept since the last report; None and () before any step was counted. pairs: over all layers."""

    pairs: float = 0.0
    ratio: float | None = None
    pairs_by_layer: tuple[float, ...] = ()
    keys_by_layer: tuple[float, ...] = ()


def _kept(run: Run) -> _Kept:
    """Over all ranks. A collective: every rank calls it."""
    counts: torch.Tensor = run.engine.module.pop_attention_counts()
    if run.parallel.world_size > 1:
        dist.all_reduce(counts)
    kept, causal, keys, all_keys = counts.cpu().unbind(dim=1)
    if not causal.sum():
        return _Kept()
    return _Kept(
        pairs=float(kept.sum()) / run.parallel.tp.size,  # tensor ranks count the same texts
        ratio=float(kept.sum() / causal.sum()),
        pairs_by_layer=tuple((kept / causal).tolist()),
        keys_by_layer=tuple((keys / all_keys).tolist()),
    )


@dataclass(frozen=True)
class _Work:
    """Of one device since the last report, in 10^12 operations; peak: what it could do in a second, if known."""

    tflops: float
    hardware_tflops: float
    peak: float | None


def _work(run: Run, kept: _Kept, tokens: int) -> _Work:
    args = run.args
    forward = forward_flops(run.model_config, tokens, kept.pairs)
    each = 1e12 * run.parallel.world_size
    peak = args.peak_theoretical_tflops
    if peak is None and torch.cuda.is_available():
        peak = peak_tflops(torch.cuda.get_device_name(), args.derived.precision)
    recomputed = "none"
    if args.checkpoint_activations:
        recomputed = "layers" if args.recompute_granularity == "full" else "attention"
    return _Work(forward.model / each, forward.hardware(recomputed) / each, peak)

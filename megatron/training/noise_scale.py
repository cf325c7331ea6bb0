"""The gradient noise scale (McCandlish et al. 2018, arXiv 1812.06162, appendix A.1), in samples.

It compares the gradient of one micro-batch with that of the whole batch: a batch much larger than it wastes samples,
a much smaller one wastes steps. Hooks see each micro-batch's gradient before it is summed, so no copy is kept, and
how the sums are cut over ranks does not matter.
"""

import math
from collections import deque
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor
from torch.utils.hooks import RemovableHandle

from megatron.errors import SettingsError
from megatron.mpu.shard import counts_here
from megatron.training.engine import gradient_norm
from megatron.training.run import Run


@dataclass(frozen=True)
class NoiseEstimate:
    """Unbiased estimates from one step. gradient: squared norm of the true gradient. noise: trace of its covariance."""

    gradient: float
    noise: float


def noise_estimate(small: float, small_batch: int, big: float, big_batch: int) -> NoiseEstimate:
    """From the mean squared gradient norm of batches of small_batch samples, and of the one of big_batch samples."""
    return NoiseEstimate(
        gradient=(big_batch * big - small_batch * small) / (big_batch - small_batch),
        noise=(small - big) / (1 / small_batch - 1 / big_batch),
    )


class NoiseScale:
    """Collects over the last steps before a report; off, it costs nothing."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self._armed = False
        self._batch = 0
        self._estimates: deque[NoiseEstimate] = deque(maxlen=run.args.gradient_noise_scale_n_batches)
        self._squares = torch.zeros((), dtype=torch.float64, device=run.engine.device)
        self._hooks: list[RemovableHandle] = []
        if run.args.log_gradient_noise_scale:
            if run.args.derived.train_batch_size == run.args.derived.micro_batch_size:
                raise SettingsError(
                    "log_gradient_noise_scale compares micro-batches with the whole batch, and here both are "
                    f"{run.args.derived.train_batch_size} samples. Use a smaller train_micro_batch_size_per_gpu."
                )
            for parameter in run.engine.module.parameters():
                if parameter.requires_grad and counts_here(parameter, run.parallel.tp):
                    self._hooks.append(parameter.register_hook(self._add))

    def before_step(self, steps_to_report: int) -> None:
        """Measure the coming step if it is one of the last before the report (1: the report follows it)."""
        args = self._run.args
        self._squares.zero_()
        self._batch = args.derived.batch_plan.size_at(self._run.state.consumed_samples)
        measurable = args.log_gradient_noise_scale and self._batch > args.derived.micro_batch_size
        self._armed = measurable and steps_to_report <= args.gradient_noise_scale_n_batches

    def after_step(self) -> None:
        """Take the step's estimate. A collective: every rank calls it."""
        if not self._armed:
            return
        self._armed = False
        run, micro = self._run, self._run.args.derived.micro_batch_size
        if run.parallel.world_size > 1:
            dist.all_reduce(self._squares)
        # DeepSpeed divides each micro-batch's loss by the accumulation, and multiplies it by fp16's loss scale.
        micro_batches = self._batch // micro
        small = float(self._squares) * (micro_batches / run.parallel.dp_size) ** 2 / micro_batches
        self._squares.zero_()
        big = gradient_norm(run.engine)
        if big is None or not math.isfinite(small) or not math.isfinite(big):
            return  # a step that fp16 skipped
        self._estimates.append(noise_estimate(small, micro, big**2, self._batch))

    def report(self) -> float | None:
        """Noise over squared gradient, both averaged first; None while the gradient cannot be told from the noise."""
        gradient = sum(estimate.gradient for estimate in self._estimates)
        noise = sum(estimate.noise for estimate in self._estimates)
        self._estimates.clear()
        return noise / gradient if gradient > 0 and noise >= 0 else None

    def close(self) -> None:
        for hook in self._hooks:
            hook.remove()

    def _add(self, gradient: Tensor) -> None:
        if self._armed:
            self._squares += gradient.detach().double().square().sum() / self._loss_scale() ** 2

    def _loss_scale(self) -> float:
        optimizer = self._run.engine.optimizer
        return float(optimizer.cur_scale) if self._run.args.derived.precision == "fp16" else 1.0

"""The global batch over a run, as a function of the samples trained on so far: constant, or growing in stages.

Nothing is counted in steps, so a run that resumes in the middle of the ramp goes on as if it had never stopped.
"""

from dataclasses import dataclass

from megatron.neox_arguments.batch import divisors


@dataclass(frozen=True)
class BatchPlan:
    """`start` sequences a step at first, `increment` more at each stage, `full` once `ramp_samples` are behind.

    The (full - start) / increment stages below `full` each last an equal share of ramp_samples.
    """

    full: int
    start: int
    increment: int = 1
    ramp_samples: int = 0

    @property
    def stages(self) -> int:
        """Number of stages below the full batch."""
        return (self.full - self.start) // self.increment

    def size_at(self, consumed: int) -> int:
        """Sequences of the step that begins after `consumed` samples."""
        if consumed >= self.ramp_samples:
            return self.full
        return self.start + consumed * self.stages // self.ramp_samples * self.increment

    def updates(self, samples: int, consumed: int = 0) -> int:
        """Steps from `consumed` until at least `samples` samples are trained on."""
        count = 0
        while consumed < samples:
            size, steps = self.size_at(consumed), self._steps_of_stage(consumed)
            needed = -(-(samples - consumed) // size)
            taken = needed if steps is None else min(steps, needed)
            count, consumed = count + taken, consumed + taken * size
        return count

    def samples(self, updates: int, consumed: int = 0) -> int:
        """Samples trained on after `updates` steps from `consumed`."""
        while updates > 0:
            size, steps = self.size_at(consumed), self._steps_of_stage(consumed)
            taken = updates if steps is None else min(steps, updates)
            updates, consumed = updates - taken, consumed + taken * size
        return consumed

    def _steps_of_stage(self, consumed: int) -> int | None:
        """Steps of the present size from here on; None at the full batch."""
        if consumed >= self.ramp_samples:
            return None
        stage = consumed * self.stages // self.ramp_samples
        border = -(-(stage + 1) * self.ramp_samples // self.stages)  # the first sample of the next stage
        return -(-(border - consumed) // self.size_at(consumed))


def batch_plan(full: int, unit: int, ramp: list[int] | None) -> BatchPlan:
    """The plan of `rampup_batch_size`. unit: sequences of one micro-batch on all data-parallel ranks.

    Raises ValueError, with settings that fit, where a stage is not a whole number of micro-batches.
    """
    if ramp is None:
        return BatchPlan(full, full)
    start, increment, samples = ramp
    if start > full:
        raise ValueError(f"the ramp starts at {start} sequences and train_batch_size is {full}. {_fits(full, unit)}")
    if start % unit or increment % unit or (full - start) % increment:
        raise ValueError(
            f"from {start} in stages of {increment} to train_batch_size {full}: start and increment must be multiples"
            f" of {unit} (train_micro_batch_size_per_gpu x data-parallel ranks), and the increment must divide"
            f" {full} - start. {_fits(full, unit)}"
        )
    return BatchPlan(full, start, increment, samples if start < full else 0)


def _fits(full: int, unit: int) -> str:
    steps = [stages * unit for stages in divisors(full // unit) if stages * unit < full]
    choices = [f"[{step}, {step}, N]" for step in steps[-3:]]
    return f"Valid: {', '.join(choices)}." if choices else "Remove rampup_batch_size."

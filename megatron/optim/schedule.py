"""The learning rate as a pure function of the update number: nothing to save, nothing to get wrong at resume."""

import math
from dataclasses import dataclass

from megatron.neox_arguments.arguments import NeoXArgs


@dataclass(frozen=True)
class Schedule:
    """Linear warm-up over `warmup_steps`, then decay to `min_lr` at `decay_steps`, then `min_lr` for ever.

    style: "constant", "linear", "cosine" (Loshchilov & Hutter 2017) or "exponential" (half of the peak at the end).
    """

    style: str
    max_lr: float
    min_lr: float
    warmup_steps: float
    decay_steps: int

    def lr(self, update: int) -> float:
        """Learning rate of the given update; updates are counted from 1, so the first one already learns."""
        if self.warmup_steps > 0 and update < self.warmup_steps:
            return self.max_lr * update / self.warmup_steps
        if self.style == "constant":
            return self.max_lr
        if update >= self.decay_steps:
            return self._floor()
        progress = (update - self.warmup_steps) / (self.decay_steps - self.warmup_steps)
        if self.style == "linear":
            return self.min_lr + (self.max_lr - self.min_lr) * (1.0 - progress)
        if self.style == "cosine":
            return self.min_lr + (self.max_lr - self.min_lr) * 0.5 * (1.0 + math.cos(math.pi * progress))
        return max(self.min_lr, self.max_lr * 0.5**progress)

    def _floor(self) -> float:
        return max(self.min_lr, self.max_lr * 0.5) if self.style == "exponential" else self.min_lr


def schedule_from_args(args: NeoXArgs) -> Schedule:
    """The schedule a run's settings ask for; lr_decay_iters defaults to train_iters."""
    decay_steps = args.derived.lr_decay_iters
    assert decay_steps is not None, "it defaults to train_iters, which training needs"
    return Schedule(
        style=args.lr_decay_style,
        max_lr=args.derived.optimizer.lr,
        min_lr=args.min_lr,
        warmup_steps=args.warmup * decay_steps,
        decay_steps=decay_steps,
    )

"""The learning rate as a pure function of the place in the run: nothing to save, nothing to get wrong at resume."""

import math
from collections.abc import Callable
from dataclasses import dataclass

from megatron.neox_arguments.arguments import NeoXArgs


@dataclass(frozen=True)
class Schedule:
    """Linear warm-up over `warmup`, then `style` down to `min_lr` at `end`, then `min_lr` for ever.

    Lengths are counted in `unit`: "iters" or "tokens". style: "constant"; "linear"; "cosine" (Loshchilov & Hutter
    2017); "exponential" (half of the peak at the end); "inverse_sqrt" (Vaswani et al. 2017: peak * sqrt(warmup /
    place), no end); "wsd" (Hu et al. 2024: the peak until `end - final_decay`, then a decay of shape `final_style`).
    """

    style: str
    max_lr: float
    min_lr: float
    warmup: float
    end: float
    final_decay: float = 0.0
    final_style: str = "linear"
    unit: str = "iters"

    def lr(self, place: float) -> float:
        """Learning rate of the update that ends at `place` (updates or tokens, that update's own included).

        The first update has place 1, or the tokens of one batch: it already learns.
        """
        if place < self.warmup:
            return self.max_lr * place / self.warmup
        if self.style == "constant":
            return self.max_lr
        if self.style == "inverse_sqrt":
            return max(self.min_lr, self.max_lr * math.sqrt(self.warmup / place))
        start = self.end - self.final_decay if self.style == "wsd" else self.warmup
        if place <= start:
            return self.max_lr
        progress = min(1.0, (place - start) / (self.end - start))
        if self.style == "exponential":
            return max(self.min_lr, self.max_lr * 0.5**progress)
        fall = _FALLS[self.final_style if self.style == "wsd" else self.style]
        return self.min_lr + (self.max_lr - self.min_lr) * fall(progress)


# progress 0 ... 1 -> share of the peak left, 1 ... 0.
_FALLS: dict[str, Callable[[float], float]] = {
    "linear": lambda progress: 1.0 - progress,
    "cosine": lambda progress: 0.5 * (1.0 + math.cos(math.pi * progress)),
    "sqrt": lambda progress: 1.0 - math.sqrt(progress),
}


def schedule_from_args(args: NeoXArgs, train_samples: int | None = None) -> Schedule:
    """The schedule a run's settings ask for.

    train_samples: length of the run where only the data tell it (train_epochs).
    """
    settings = args.derived.schedule
    end = settings.end
    if end is None and settings.unit == "tokens":
        samples = args.derived.train_samples if train_samples is None else train_samples
        assert samples is not None, "a run has a length"
        end = samples * args.seq_length
    end = args.train_iters if end is None else end
    assert end is not None, "a schedule in steps belongs to a length in steps"
    warmup = settings.warmup if settings.warmup is not None else (settings.warmup_share or 0.0) * end
    final_decay = settings.final_decay if settings.final_decay is not None else 0.2 * end
    return Schedule(
        style=args.lr_decay_style,
        max_lr=args.derived.optimizer.lr,
        min_lr=args.min_lr,
        warmup=warmup,
        end=end,
        final_decay=min(final_decay, end - warmup) if args.lr_decay_style == "wsd" else 0.0,
        final_style=args.lr_wsd_decay_style,
        unit=settings.unit,
    )

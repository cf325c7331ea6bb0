"""The loss of one held-out set: the object that console, event log, trackers and eval.py all read."""

import math
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class SetLoss:
    """loss: nats per token, the mean over all `tokens` that count, of `samples` samples.

    set: "validation", "test", or a name of validation_sets.
    """

    set: str
    loss: float
    tokens: int
    samples: int

    @property
    def perplexity(self) -> float:
        """exp(loss), cut at exp(100) so that it stays a finite number."""
        return math.exp(min(self.loss, 100.0))

    @property
    def split(self) -> str:
        """Kind of its event, group of its tags: every set but "test" is a validation set."""
        return "test" if self.set == "test" else "validation"

    def as_dict(self) -> dict[str, Any]:
        return {
            "set": self.set,
            "loss": self.loss,
            "perplexity": self.perplexity,
            "tokens": self.tokens,
            "samples": self.samples,
        }

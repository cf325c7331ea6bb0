"""Are the numbers of a step sound? Not finite: no update, stop or skip. A sudden loss: say so, or go back.

The engine leaves weights and optimizer as they were when the gradient's norm, which is summed over all ranks, is not
finite; so one bad value on any rank is seen by all before anything is changed.
"""

import math
import statistics
from collections import deque
from dataclasses import dataclass

from megatron.errors import NumericsError

_LOSSES = 50  # recent losses that a new one is held against
_FEWEST = 20


@dataclass
class LossSpikes:
    """Flags a loss more than `deviations` standard deviations above the mean of the last 50 sound ones."""

    deviations: float | None

    def __post_init__(self) -> None:
        self._losses: deque[float] = deque(maxlen=_LOSSES)

    def describe(self, loss: float) -> str | None:
        """Take note of a loss; a sentence when it is a spike, which is not kept as a measure for later ones."""
        if self.deviations is None:
            return None
        if len(self._losses) >= _FEWEST:
            mean, spread = statistics.fmean(self._losses), statistics.pstdev(self._losses)
            if loss > mean + self.deviations * max(spread, 1e-3 * abs(mean)):
                return (
                    f"loss {loss:.4f} is {(loss - mean) / max(spread, 1e-9):.1f} standard deviations above the mean "
                    f"{mean:.4f} of the last {len(self._losses)} steps"
                )
        self._losses.append(loss)
        return None

    def forget(self) -> None:
        """Begin anew, after going back."""
        self._losses.clear()


@dataclass
class FiniteCheck:
    """Stops at a step that is not finite, or lets up to `allowed` in a row pass without an update."""

    allowed: int
    adapts_scale: bool  # fp16: overflows are how the loss scale finds its place
    _in_a_row: int = 0

    def passes(self, step: int, loss: float, updated: bool, last_saved: int | None) -> bool:
        """True for a sound step, False for one that was skipped. Raises NumericsError otherwise."""
        if updated and math.isfinite(loss):
            self._in_a_row = 0
            return True
        if not updated and self.adapts_scale:
            return False
        self._in_a_row += 1
        if not updated and self._in_a_row <= self.allowed:
            return False
        what = f"The loss is {loss}" if not math.isfinite(loss) else "The gradient is not finite"
        before = f" after {self._in_a_row - 1} skipped ones in a row" if self._in_a_row > 1 else ""
        kept = "no checkpoint was saved yet" if last_saved is None else f"the last checkpoint is of step {last_saved}"
        untouched = "weights and optimizer were not updated" if not updated else "nothing was saved from this step"
        raise NumericsError(
            f"{what} at step {step}{before}; {untouched}, and {kept}. Resume from it with a lower lr, a longer warmup, "
            "bfloat16 in place of fp16, skip_samples for the data of this step, or skip_nonfinite_steps."
        )

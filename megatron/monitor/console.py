"""The step line: one aligned line per report whose columns keep their place from step 1 to the last.

   step       loss        lr  grad norm     tokens/s  TFLOP/s      samples    kept  mem GiB  s/step     left
10/1000     4.1234  3.00e-04      1.234       12,345     1.23        1,280   21.3%     1.75    0.52    8m35s
"""

import math
from collections.abc import Callable

from megatron.monitor.step_result import StepResult


def header(train_iters: int) -> str:
    """Column titles over the lines of format_step for a run of that many steps."""
    titles = [f"{'step':>{_step_width(train_iters)}}"]
    titles += [f"{title:>{width}}" for title, width in _COLUMNS]
    return "  ".join(titles)


def format_step(result: StepResult) -> str:
    """One report as one line; at the end stand utilisation, noise scale, loss scale and skipped steps if there are any.

    Each keeps its width, and a loss scale brings the skipped steps with it: those lines stay aligned too.
    """
    step = f"{result.iteration}/{result.train_iters}"
    cells = [
        f"{result.loss:.4f}",
        f"{result.lr:.2e}",
        "-" if result.grad_norm is None else format_norm(result.grad_norm),
        f"{result.tokens_per_second:,.0f}",
        "-" if result.tflops is None else format_figures(result.tflops),
        f"{result.consumed_samples:,}",
        "-" if result.kept_ratio is None else f"{100 * result.kept_ratio:.1f}%",
        "-" if result.peak_memory is None else format_figures(result.peak_memory / 2**30),
        format_figures(result.seconds),
        "-" if result.eta_seconds is None else format_duration(result.eta_seconds),
    ]
    line = f"{step:>{_step_width(result.train_iters)}}"
    for (_, width), cell in zip(_COLUMNS, cells, strict=True):
        line += f"  {cell:>{width}}"
    if result.mfu is not None:
        line += f"  mfu {100 * result.mfu:.1f}%"
    if result.noise_scale is not None:
        line += f"  noise {format_figures(result.noise_scale):>5}"
    if result.loss_scale is not None:
        line += f"  scale {_format_scale(result.loss_scale):>5}"
    if result.skipped or result.loss_scale is not None:
        line += f"  skipped {result.skipped}"
    return line


def format_norm(norm: float) -> str:
    """Three decimals while they fit, then the exponent form: 0.123, 12.346, 1.23e+05."""
    return f"{norm:.3f}" if math.isfinite(norm) and norm < 10_000 else f"{norm:.2e}"


def format_figures(number: float) -> str:
    """Three leading figures: 0.052, 0.52, 5.20, 52.0, 520."""
    if not math.isfinite(number) or number >= 100:
        return f"{number:.0f}"
    return f"{number:.1f}" if number >= 10 else f"{number:.2f}" if number >= 0.1 else f"{number:.3f}"


def _format_scale(scale: float) -> str:
    """Powers of two, which dynamic scales are, as 2^16."""
    power = math.log2(scale) if scale > 0 else math.nan
    return f"2^{int(power)}" if power.is_integer() else f"{scale:g}"


def format_duration(seconds: float) -> str:
    """The two largest units: 12s, 8m35s, 3h07m, 2d04h; '?' when nobody can know."""
    if not math.isfinite(seconds) or seconds < 0:
        return "?"
    whole = round(seconds)
    if whole < 60:
        return f"{whole}s"
    minutes, rest = divmod(whole, 60)
    if minutes < 60:
        return f"{minutes}m{rest:02d}s"
    hours, minutes = divmod(minutes, 60)
    if hours < 24:
        return f"{hours}h{minutes:02d}m"
    days, hours = divmod(hours, 24)
    return f"{days}d{hours:02d}h"


class StepConsole:
    """Hands step lines to `say`, with the titles before the first one and again after every `header_every`."""

    def __init__(self, say: Callable[[str], None], header_every: int = 25) -> None:
        self._say = say
        self._header_every = header_every
        self._lines = 0

    def show(self, result: StepResult) -> None:
        """Print one report."""
        if self._lines % self._header_every == 0:
            self._say(header(result.train_iters))
        self._lines += 1
        self._say(format_step(result))

    def interrupted(self) -> None:
        """Other text was printed in between: the next line gets its titles again."""
        self._lines = 0


_COLUMNS = (
    ("loss", 9),
    ("lr", 8),
    ("grad norm", 9),
    ("tokens/s", 11),
    ("TFLOP/s", 7),
    ("samples", 11),
    ("kept", 6),
    ("mem GiB", 7),
    ("s/step", 6),
    ("left", 7),
)


def _step_width(train_iters: int) -> int:
    return max(len("step"), 2 * len(str(train_iters)) + 1)

"""A chart as data, free of any way to draw it; round numbers for its axes."""

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

# Okabe and Ito's colours, told apart by colour-blind readers too; the order avoids the pale ones as long as it can.
COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#b8860b", "#56b4e9", "#7a5195", "#555555")
ON_DARK = ("#4fb0e8", "#f2874b", "#35c795", "#e6a4cd", "#dcb04a", "#9bd8fa", "#bb9bd6", "#b5b5b5")
_PREFIXES = ((1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))


@dataclass(frozen=True)
class Line:
    """Points from left to right. color: number of the run. `name` empty: not in the legend."""

    name: str
    x: tuple[float, ...]
    y: tuple[float, ...]
    color: int
    style: Literal["solid", "faint", "dots", "dashed"] = "solid"


@dataclass(frozen=True)
class Mark:
    """A moment of a run, told by a vertical line. bad: a fault rather than a resume."""

    x: float
    text: str
    color: int
    bad: bool = False


@dataclass(frozen=True)
class Chart:
    """low, high: bounds of the y axis, left: where the x axis begins; None to follow the points.

    wide: takes the page's whole width.
    """

    name: str
    title: str
    x_label: str
    y_label: str
    lines: tuple[Line, ...]
    marks: tuple[Mark, ...] = ()
    low: float | None = None
    high: float | None = None
    whole_x: bool = False
    percent: bool = False
    left: float | None = None
    wide: bool = False

    def bounds(self) -> tuple[float, float, float, float]:
        """x from, x to, y from, y to; never empty."""
        xs = [x for line in self.lines for x in line.x] + [mark.x for mark in self.marks]
        ys = [y for line in self.lines for y in line.y if math.isfinite(y)]
        left, right = _span(xs if self.left is None else [self.left, *xs])
        bottom, top = _span(ys)
        room = 0.05 * (top - bottom)
        low = bottom - room if self.low is None else self.low
        high = top + room if self.high is None else self.high
        return left, right, low, max(high, low + 1e-9)


def _span(numbers: Iterable[float]) -> tuple[float, float]:
    found = list(numbers)
    low, high = (min(found), max(found)) if found else (0.0, 1.0)
    return (low, high) if high > low else (low - 0.5, high + 0.5)


def ticks(low: float, high: float, about: int = 6, whole: bool = False) -> list[float]:
    """Round numbers (1, 2 or 5 times a power of ten apart) from low to high."""
    if not high > low:
        return [low]
    raw = (high - low) / max(1, about)
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= raw * 0.999)
    step = max(1.0, step) if whole else step
    first = math.ceil(low / step - 1e-9)
    return [n * step for n in range(first, math.floor(high / step + 1e-9) + 1)]


def short(value: float, step: float = 0.0, percent: bool = False) -> str:
    """A number for an axis: 0.25, 1.5k, 300M, 2e+18; enough decimals to tell numbers `step` apart."""
    if percent:
        return f"{100 * value:.{0 if step >= 0.01 or not step else 1}f}%"
    if value == 0:
        return "0"
    if abs(value) >= 1e18:
        return f"{value:.3g}"
    for size, prefix in _PREFIXES:
        if abs(value) >= size:
            return f"{value / size:.4g}{prefix}"
    if abs(value) < 0.01 and step < 0.001:
        return re.sub(r"e-0", "e-", f"{value:.{_digits(value, step)}e}")
    if step:
        decimals = max(0, -math.floor(math.log10(step) + 1e-9))
        return f"{value:.{decimals}f}"
    return f"{value:.4g}"


def _digits(value: float, step: float) -> int:
    """Decimals of the exponent form that still tell numbers `step` apart."""
    return max(0, math.floor(math.log10(abs(value)) + 1e-9) - math.floor(math.log10(step) + 1e-9)) if step else 1


def quantile(numbers: Sequence[float], share: float) -> float:
    """The number below which `share` of them lie; the nearest one, nothing in between."""
    ordered = sorted(numbers)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def thinned(x: Sequence[float], y: Sequence[float], most: int = 800) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """At most about `most` points: means of equal runs of points, so that nothing is picked by chance."""
    if len(x) <= most:
        return tuple(x), tuple(y)
    size = -(-len(x) // most)
    parts = [slice(first, first + size) for first in range(0, len(x), size)]
    return tuple(_mean(x[part]) for part in parts), tuple(_mean(y[part]) for part in parts)


def _mean(numbers: Sequence[float]) -> float:
    return math.fsum(numbers) / len(numbers)

"""What the same loss cost several runs: where each was, for the first time, as low as the worst of them ever got.

By held-out loss where all runs measured the same set twice or more: training text is not equally hard everywhere.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from megatron.monitor.plot import smooth_both_ways
from megatron.report.run_log import Point, RunLog

_LEAST_POINTS = 20  # training losses of each run: below that the noise of single reports decides
_WIDTH = 50  # reports that a smoothed training loss leans on, where there are many

Curve = list[tuple[int, float]]  # (step, loss)


@dataclass(frozen=True)
class SameLoss:
    """loss: nats per token, of the held-out set of that name; smoothed training loss where held_out is None.

    points: what each run had done by then; between two reports everything is taken to go evenly.
    """

    loss: float
    held_out: str | None
    points: tuple[Point, ...]


def same_loss(runs: Sequence[RunLog]) -> SameLoss | None:
    """None for a single run, or where one measured too little."""
    if len(runs) < 2 or not all(run.points for run in runs):
        return None
    held_out = _common_set(runs)
    if held_out is None and min(len(run.points) for run in runs) < _LEAST_POINTS:
        return None
    curves = [_smoothed(run) if held_out is None else _held_out(run, held_out) for run in runs]
    loss = max(min(value for _, value in curve) for curve in curves)
    points = tuple(_at(run, _reached(curve, loss)) for run, curve in zip(runs, curves, strict=True))
    return SameLoss(loss, held_out, points)


def _common_set(runs: Sequence[RunLog]) -> str | None:
    """The first set of the first run that each run measured twice or more."""
    names = (name for name in runs[0].sets if all(len(_held_out(run, name)) > 1 for run in runs))
    return next(names, None)


def _held_out(run: RunLog, name: str) -> Curve:
    return [(point.iteration, point.value) for point in run.sets.get(name, []) if math.isfinite(point.value)]


def _smoothed(run: RunLog) -> Curve:
    weight = 1 - 1 / min(_WIDTH, len(run.points) / 10)
    losses = smooth_both_ways([point.loss for point in run.points], max(0.0, weight))
    return [(point.iteration, loss) for point, loss in zip(run.points, losses, strict=True)]


def _reached(curve: Curve, loss: float) -> float:
    """The step at which the curve is as low for the first time."""
    for (before, above), (after, below) in pairwise(curve):
        if above > loss >= below:
            return before + (after - before) * (above - loss) / (above - below)
    return curve[0][0]


def _at(run: RunLog, step: float) -> Point:
    """What the run had done after so many steps, between the reports around them."""
    before = Point(0, math.nan, 0.0, 0.0, 0.0, {})
    for after in run.points:
        if after.iteration >= step:
            break
        before = after
    else:
        return before
    share = (step - before.iteration) / (after.iteration - before.iteration)

    def between(low: float, high: float) -> float:
        return low + share * (high - low)

    flops = None if before.flops is None or after.flops is None else between(before.flops, after.flops)
    tokens, seconds = between(before.tokens, after.tokens), between(before.seconds, after.seconds)
    return Point(round(step), after.loss, tokens, seconds, flops, after.event)

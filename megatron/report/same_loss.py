"""What the same loss cost several runs: the first report at which each was as low as the worst of them ever got."""

from collections.abc import Sequence
from dataclasses import dataclass

from megatron.monitor.plot import smooth_both_ways
from megatron.report.run_log import Point, RunLog

_LEAST_POINTS = 20  # of each run: below that the noise of single reports decides
_WIDTH = 50  # reports that a smoothed value leans on, where there are many


@dataclass(frozen=True)
class SameLoss:
    """loss: smoothed training loss. points: for each run, the report at which it was there first."""

    loss: float
    points: tuple[Point, ...]


def same_loss(runs: Sequence[RunLog]) -> SameLoss | None:
    """None for a single run, or where one has too few reports."""
    if len(runs) < 2 or min(len(run.points) for run in runs) < _LEAST_POINTS:
        return None
    curves = [_smoothed(run) for run in runs]
    loss = max(min(curve) for curve in curves)
    points = [
        next(point for point, value in zip(run.points, curve, strict=True) if value <= loss)
        for run, curve in zip(runs, curves, strict=True)
    ]
    return SameLoss(loss, tuple(points))


def _smoothed(run: RunLog) -> list[float]:
    weight = 1 - 1 / min(_WIDTH, len(run.points) / 10)
    return smooth_both_ways([point.loss for point in run.points], max(0.0, weight))

"""From runs to charts: which figures are drawn against what."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from megatron.monitor.plot import smooth_both_ways
from megatron.report.chart import Chart, Line, Mark, quantile, thinned
from megatron.report.run_log import Incident, Point, RunLog, values

# Fewer points are drawn as they are: each is a mean over log_interval steps already, and smoothing would lag behind.
_SMOOTH_FROM = 200


@dataclass(frozen=True)
class Axis:
    """Something that grows during a run. value: None where the log does not say it."""

    name: str
    label: str
    value: Callable[[Point], float | None]
    whole: bool = False


def loss_axes(runs: Sequence[RunLog]) -> list[Axis]:
    """What the loss is drawn against: tokens, time, FLOPs and steps, as far as every run tells them."""
    longest = max((run.points[-1].seconds for run in runs if run.points), default=0.0)
    unit, size = next(
        ((unit, size) for unit, size in (("days", 86400), ("hours", 3600), ("minutes", 60)) if longest > 2 * size),
        ("seconds", 1),
    )
    axes = [
        Axis("tokens", "tokens trained on", lambda point: point.tokens),
        Axis("time", f"training time ({unit})", lambda point: point.seconds / size),
        Axis("flops", "model FLOPs, attention by the pairs it keeps", lambda point: point.flops),
        Axis("steps", "steps", lambda point: float(point.iteration), whole=True),
    ]
    return [axis for axis in axes if any(axis.value(point) for run in runs for point in run.points)]


def loss_chart(runs: Sequence[RunLog], axis: Axis) -> Chart:
    """Training loss (thin as logged, thick smoothed), held-out sets as dots, resumes and faults as lines."""
    lines: list[Line] = []
    most = max(len(run.points) for run in runs)
    for color, run in enumerate(runs):
        known = [(x, point.loss) for point in run.points if (x := axis.value(point)) is not None]
        weight = 1 - 100 / most if most > _SMOOTH_FROM else 0.0
        lines += _curve(run.name, [x for x, _ in known], [y for _, y in known], color, weight)
    for color, run in enumerate(runs):
        for name, points in run.sets.items():
            placed = [(x, point.value) for point in points if (x := _place(run, point.iteration, axis)) is not None]
            if placed:
                xs, ys = zip(*placed, strict=True)
                lines.append(Line(f"{run.name}: {name}", xs, ys, color, "dots"))
    low, high = _loss_bounds(lines)
    return Chart(
        f"loss-{axis.name}",
        f"Loss against {'FLOPs' if axis.name == 'flops' else axis.name}",
        axis.label,
        "loss (nats per token)",
        tuple(lines),
        tuple(mark for color, run in enumerate(runs) for mark in _marks(run, color, axis)),
        low,
        high,
        whole_x=axis.whole,
        left=0.0,
        wide=True,
    )


def _curve(name: str, x: list[float], y: list[float], color: int, weight: float) -> list[Line]:
    """weight: of the neighbours in the smoothed line; 0 draws the points as they are."""
    if not x or not weight:
        return [Line(name, tuple(x), tuple(y), color)] if x else []
    return [Line("", *thinned(x, y), color, "faint"), Line(name, *thinned(x, smooth_both_ways(y, weight)), color)]


def _loss_bounds(lines: Sequence[Line]) -> tuple[float | None, float | None]:
    """The first few losses are so high that nobody would see the rest: the frame ends where 95 % of them lie."""
    losses = [y for line in lines for y in line.y if math.isfinite(y)]
    if len(losses) < 20:
        return None, None
    low, most = min(losses), quantile(losses, 0.95)
    room = 0.06 * (most - low) or 0.5
    return low - room, most + room


def loss_is_cut(chart: Chart) -> bool:
    """Whether some losses lie above the frame."""
    return chart.high is not None and any(y > chart.high for line in chart.lines for y in line.y)


def _marks(run: RunLog, color: int, axis: Axis) -> list[Mark]:
    marks = []
    for incident in run.incidents:
        if incident.kind in ("resume", "rollback", "fault", "exit"):
            x = _place(run, incident.iteration, axis)
            if x is not None:
                marks.append(Mark(x, f"{run.name}: {incident.text}", color, bad=is_bad(incident)))
    return marks


def is_bad(incident: Incident) -> bool:
    """Something broke; a stop on request (exit code 75) did not."""
    return incident.kind == "fault" or (incident.kind == "exit" and not incident.text.startswith("exit code 75"))


def _place(run: RunLog, iteration: int, axis: Axis) -> float | None:
    point = run.at(iteration)
    return None if point is None else axis.value(point)


def detail_charts(runs: Sequence[RunLog]) -> list[Chart]:
    """Throughput, use of the device, kept share, gradient norm, learning rate, memory: what the logs hold."""
    wanted = (
        ("tokens_per_second", "Throughput", "tokens per second", 0.0, False),
        ("mfu", "Model FLOPs utilisation", "share of the device's peak", 0.0, True),
        ("tflops", "Operations of one device", "FLOP/s", 0.0, False),
        ("kept_ratio", "Query-key pairs that attention keeps", "of the causal pairs", 0.0, True),
        ("grad_norm", "Gradient norm before clipping", "norm", None, False),
        ("lr", "Learning rate", "", 0.0, False),
        ("peak_memory", "Peak memory of the fullest rank", "GiB", 0.0, False),
        ("noise_scale", "Gradient noise scale", "samples", 0.0, False),
    )
    charts = [_detail(runs, *one) for one in wanted]
    return [chart for chart in charts if chart is not None]


def _detail(runs: Sequence[RunLog], key: str, title: str, label: str, low: float | None, percent: bool) -> Chart | None:
    lines = []
    for color, run in enumerate(runs):
        found = [(float(point.iteration), value * _UNITS.get(key, 1.0)) for point, value in values(run, key)]
        if found:
            xs, ys = map(list, zip(*found, strict=True))
            weight = 1 - 50 / len(ys) if key in _NOISY and len(ys) > _SMOOTH_FROM else 0.0
            lines += _curve(run.name, xs, ys, color, weight)
    if not lines:
        return None
    every = [y for line in lines for y in line.y]
    high = None
    if key == "grad_norm" and len(every) >= 20:
        high = 1.1 * quantile(every, 0.98)
    if percent:
        high = min(1.0, 1.15 * max(every)) if max(every) < 0.99 else 1.02
    return Chart(key, title, "steps", label, tuple(lines), low=low, high=high, whole_x=True, percent=percent, left=0.0)


_NOISY = ("tokens_per_second", "mfu", "tflops", "grad_norm", "noise_scale")
_UNITS = {"peak_memory": 2.0**-30, "tflops": 1e12}


def task_charts(runs: Sequence[RunLog], most: int = 12) -> list[Chart]:
    """Scores of tasks during training, a chart for each of the first `most`."""
    charts = []
    for name in list(dict.fromkeys(name for run in runs for name in run.tasks))[:most]:
        lines = [
            Line(
                run.name,
                *_columns([(float(point.iteration), point.value) for point in run.tasks[name]]),
                color,
                "dashed",
            )
            for color, run in enumerate(runs)
            if name in run.tasks
        ]
        safe = "".join(letter if letter.isalnum() else "-" for letter in name)
        charts.append(Chart(f"task-{safe}", name, "steps", "score", tuple(lines), whole_x=True, left=0.0))
    return charts


def _columns(points: Sequence[tuple[float, float]]) -> tuple[tuple[float, ...], tuple[float, ...]]:
    return tuple(x for x, _ in points), tuple(y for _, y in points)


def layer_charts(runs: Sequence[RunLog]) -> list[Chart]:
    """What each layer kept at the last report: of the pairs ("Atten. %"), and of the keys at a row's end ("r.KV")."""
    wanted = (
        ("kept_by_layer", "Pairs kept by layer", "of the causal pairs"),
        ("kept_keys_by_layer", "Keys the last token sees, by layer", "of all keys"),
    )
    charts = []
    for key, title, label in wanted:
        lines = []
        for color, run in enumerate(runs):
            last = next((point.event[key] for point in reversed(run.points) if point.event.get(key)), None)
            if last:
                lines.append(Line(run.name, tuple(range(1, len(last) + 1)), tuple(map(float, last)), color, "dashed"))
        if lines:
            charts.append(
                Chart(key, title, "layer", label, tuple(lines), low=0.0, high=1.03, whole_x=True, percent=True)
            )
    return charts

"""A picture of the loss from event logs: raw and smoothed training loss, validation points, resume marks."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import cycle
from pathlib import Path
from typing import Any

from megatron.errors import DataError, SettingsError
from megatron.monitor.events import read_events

# Fewer points are drawn as they are: each is a mean over log_interval steps already, and smoothing would lag behind.
_SMOOTH_FROM = 200


@dataclass
class LossCurve:
    """(iteration, loss) points of one run, validation by set; what a resume rolled back is gone."""

    name: str
    train: list[tuple[int, float]] = field(default_factory=list)
    validation: dict[str, list[tuple[int, float]]] = field(default_factory=dict)
    resumes: list[int] = field(default_factory=list)


def plot_losses(paths: Sequence[str | Path], out: str | Path, title: str | None = None) -> Path:
    """Draw the runs of these event logs into one PNG (or SVG, PDF: by the ending) and return its path.

    DataError when a log cannot be read or none holds a loss; SettingsError when matplotlib is not installed or
    the picture cannot be written.
    """
    curves = [read_curve(path) for path in paths]
    if not any(curve.train or curve.validation for curve in curves):
        raise DataError(f"no loss in {', '.join(map(str, paths))}: expected events of kind 'step' or 'validation'.")
    axes, figure = _new_figure()
    for number, curve in enumerate(curves):
        label = f"{curve.name} " if len(curves) > 1 else ""
        _draw(axes, curve, f"C{number}", label)
    axes.set_xlabel("step")
    axes.set_ylabel("loss (nats per token)")
    axes.set_title(title or "Training and validation loss")
    axes.grid(alpha=0.25)
    axes.legend(frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    out = Path(out)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(out, dpi=150, bbox_inches="tight")
    except OSError as error:
        raise SettingsError(f"cannot write the picture {out}: {error.strerror}.") from None
    return out


def read_curve(path: str | Path) -> LossCurve:
    """The losses of one event log."""
    path = Path(path)
    curve = LossCurve(path.parent.name if path.stem == "events" else path.stem)
    for event in read_events(path):
        iteration = event.get("iteration")
        if not isinstance(iteration, int):
            continue
        if event["kind"] == "resume":
            curve.train = [point for point in curve.train if point[0] <= iteration]
            for name, points in curve.validation.items():
                curve.validation[name] = [point for point in points if point[0] <= iteration]
            curve.resumes.append(iteration)
        elif event["kind"] in ("step", "validation") and "loss" in event:
            name = event.get("set", "validation")
            points = curve.train if event["kind"] == "step" else curve.validation.setdefault(name, [])
            points.append((iteration, float(event["loss"])))
    return curve


def smooth(values: Sequence[float], weight: float) -> list[float]:
    """Exponential mean, corrected for its start; NaN and infinities are passed over. weight 0 changes nothing."""
    mean, total, result = 0.0, 0.0, []
    for value in values:
        if abs(value) != float("inf") and value == value:
            mean = weight * mean + (1 - weight) * value
            total = weight * total + (1 - weight)
        result.append(mean / total if total else value)
    return result


def smooth_both_ways(values: Sequence[float], weight: float) -> list[float]:
    """The mean of `smooth` forwards and backwards: it follows a steep course without lagging behind it."""
    there, back = smooth(values, weight), smooth(values[::-1], weight)[::-1]
    return [(first + second) / 2 for first, second in zip(there, back, strict=True)]


def _draw(axes: Any, curve: LossCurve, color: str, label: str) -> None:
    if curve.train:
        steps, losses = zip(*curve.train, strict=True)
        if len(losses) > _SMOOTH_FROM:
            axes.plot(steps, losses, color=color, alpha=0.25, linewidth=0.8, label=f"{label}train")
            weight = 1 - 50 / len(losses)
            axes.plot(
                steps, smooth_both_ways(losses, weight), color=color, linewidth=1.8, label=f"{label}train, smoothed"
            )
        else:
            axes.plot(steps, losses, color=color, linewidth=1.5, marker=".", label=f"{label}train")
    for marker, (name, points) in zip(cycle("osD^v"), curve.validation.items(), strict=False):
        steps, losses = zip(*points, strict=True)
        axes.plot(
            steps, losses, color="black", marker=marker, markerfacecolor=color, linestyle=":", label=f"{label}{name}"
        )
    for number, iteration in enumerate(curve.resumes):
        mark = f"{label}resumed" if number == 0 else None
        axes.axvline(iteration, color=color, linestyle="--", linewidth=1, alpha=0.7, label=mark)


def _new_figure() -> tuple[Any, Any]:
    """A figure that needs no screen; the caller's own matplotlib settings stay untouched."""
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise SettingsError(f"a plot needs matplotlib ({error}); install it with `pip install matplotlib`.") from None
    figure = Figure(figsize=(8, 4.5))
    FigureCanvasAgg(figure)
    return figure.add_subplot(), figure

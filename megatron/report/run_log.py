"""One run as its event log tells it: the steps that count, what they cost, and what happened to the run.

Steps that a resume or a rollback took back are gone from the curves; their number is kept as `repeated`.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from megatron.errors import DataError
from megatron.monitor.events import read_events


@dataclass(frozen=True)
class Point:
    """One step report, and the sums since the beginning of the run. flops: model FLOPs of all devices, None unknown."""

    iteration: int
    loss: float
    tokens: float
    seconds: float
    flops: float | None
    event: dict[str, Any]


@dataclass(frozen=True)
class SetPoint:
    """The loss of a held-out set, or a task's score, after `iteration` steps."""

    iteration: int
    value: float


@dataclass(frozen=True)
class Incident:
    """kind: resume, rollback, fault, exit, stop, spike, skipped or end. time: seconds since 1970."""

    kind: str
    iteration: int
    time: float
    text: str


@dataclass
class RunLog:
    """name: for legends. tasks: "task, metric" -> its scores during training. layout: ranks by direction.

    settings: `texts` and `overrides` of the last start.
    """

    name: str
    path: Path
    points: list[Point] = field(default_factory=list)
    sets: dict[str, list[SetPoint]] = field(default_factory=dict)
    tasks: dict[str, list[SetPoint]] = field(default_factory=dict)
    incidents: list[Incident] = field(default_factory=list)
    settings: dict[str, Any] = field(default_factory=dict)
    layout: dict[str, int] = field(default_factory=dict)
    train_iters: int | None = None
    repeated: int = 0
    saves: int = 0
    save_seconds: float = 0.0

    @property
    def folder(self) -> Path:
        return self.path.parent

    @property
    def world_size(self) -> int:
        return math.prod(self.layout.values()) if self.layout else 1

    def at(self, iteration: int) -> Point | None:
        """The last report at or before that step."""
        return next((point for point in reversed(self.points) if point.iteration <= iteration), None)

    def of(self, kind: str) -> list[Incident]:
        return [incident for incident in self.incidents if incident.kind == kind]


def read_runs(paths: Sequence[str | Path]) -> list[RunLog]:
    """Run folders or event logs -> runs, their names told apart. DataError where one cannot be read or has no step."""
    logs = [_log_of(Path(path)) for path in paths]
    names = _names(logs)
    runs = [_read(path, name) for path, name in zip(logs, names, strict=True)]
    for run in runs:
        if not run.points and not run.sets:
            raise DataError(f"{run.path} tells of no training step: expected events of kind 'step' or 'validation'.")
    return runs


def _log_of(path: Path) -> Path:
    if path.is_dir():
        log = path / "events.jsonl"
        if not log.exists():
            inside = sorted(str(found.parent) for found in path.glob("*/events.jsonl"))[:5]
            hint = f" Runs in it: {', '.join(inside)}." if inside else " Name a run's save folder (or its log_dir)."
            raise DataError(f"{path} holds no events.jsonl, so it is no run folder.{hint}")
        return log
    return path


def _names(logs: Sequence[Path]) -> list[str]:
    """The shortest ends of the folders' paths that differ; runs named twice get a number."""
    folders = [log.resolve().parent if log.name == "events.jsonl" else log.resolve().with_suffix("") for log in logs]
    depth = 1
    while True:
        names = ["/".join(folder.parts[-depth:]) for folder in folders]
        if len(set(names)) == len(set(folders)) or depth >= max(len(folder.parts) for folder in folders):
            break
        depth += 1
    return [
        name if names.count(name) == 1 else f"{name} ({names[: place + 1].count(name)})"
        for place, name in enumerate(names)
    ]


def _read(path: Path, name: str) -> RunLog:
    run = RunLog(name, path)
    for event in read_events(path):
        _take(run, event)
    return run


def _take(run: RunLog, event: dict[str, Any]) -> None:
    kind, iteration = event["kind"], event.get("iteration")
    if kind == "exit":
        reached = run.points[-1].iteration if run.points else 0
        cause = event.get("cause") or ""
        run.incidents.append(_incident(event, reached, f"exit code {event.get('code')}. {cause}".strip()))
        return
    if not isinstance(iteration, int):
        return
    if kind in ("start", "resume"):
        run.settings = event.get("settings") or {}
        run.layout = {key: int(size) for key, size in (event.get("layout") or {}).items()}
    if kind in ("resume", "rollback"):
        _take_back(run, iteration, reached=event.get("reached"))
        ranks = " x ".join(f"{size} {key}" for key, size in run.layout.items() if size > 1) or "one rank"
        words = f"resumed at step {iteration} on {ranks}" if kind == "resume" else f"went back to step {iteration}"
        run.incidents.append(_incident(event, iteration, words))
    elif kind == "step":
        _add_step(run, event)
    elif kind in ("validation", "test"):
        name = str(event.get("set", kind))
        run.sets.setdefault(name, []).append(SetPoint(iteration, number(event.get("loss"))))
    elif kind == "tasks":
        _add_scores(run, iteration, event.get("scores") or {})
    elif kind == "save":
        run.saves += 1
        run.save_seconds += number(event.get("waited", event.get("seconds", 0.0)))
    elif kind in ("fault", "stop", "spike", "skipped", "end"):
        run.incidents.append(_incident(event, iteration, _words(event)))


def _words(event: dict[str, Any]) -> str:
    kind = event["kind"]
    if kind == "fault":
        return f"{event.get('error', 'fault')}: {event.get('message', '')}"
    if kind == "spike":
        return f"the loss jumped to {number(event.get('loss')):.4g}"
    if kind == "skipped":
        return "not finite, no update"
    return str(event.get("reason", "the planned end")) if kind != "end" else "the planned end"


def _incident(event: dict[str, Any], iteration: int, text: str) -> Incident:
    return Incident(event["kind"], iteration, float(event.get("time", 0.0)), text)


def _take_back(run: RunLog, iteration: int, reached: Any) -> None:
    """What was trained after `iteration` will be trained again."""
    last = run.points[-1].iteration if run.points else iteration
    run.repeated += max(0, (reached if isinstance(reached, int) else last) - iteration)
    run.points = [point for point in run.points if point.iteration <= iteration]
    run.sets, run.tasks = _up_to(iteration, run.sets), _up_to(iteration, run.tasks)


def _up_to(iteration: int, curves: dict[str, list[SetPoint]]) -> dict[str, list[SetPoint]]:
    cut = {name: [point for point in points if point.iteration <= iteration] for name, points in curves.items()}
    return {name: points for name, points in cut.items() if points}


def _add_scores(run: RunLog, iteration: int, scores: dict[str, dict[str, Any]]) -> None:
    """lm_eval writes `metric,filter` beside `metric_stderr,filter`."""
    for task, metrics in scores.items():
        for key, value in metrics.items():
            metric = key.partition(",")[0]
            if "," in key and not metric.endswith("_stderr") and math.isfinite(number(value)):
                run.tasks.setdefault(f"{task}, {metric}", []).append(SetPoint(iteration, number(value)))


def _add_step(run: RunLog, event: dict[str, Any]) -> None:
    before = run.points[-1] if run.points else None
    steps = event["iteration"] - (before.iteration if before else 0)
    seconds = steps * number(event.get("seconds", 0.0))
    tflops = event.get("tflops")
    flops = None if tflops is None else 1e12 * number(tflops) * seconds * run.world_size
    if before is not None:
        seconds += before.seconds
        flops = None if flops is None or before.flops is None else flops + before.flops
    run.train_iters = event.get("train_iters", run.train_iters)
    tokens = number(event.get("consumed_tokens", 0))
    run.points.append(Point(event["iteration"], number(event.get("loss")), tokens, seconds, flops, event))


def number(value: Any) -> float:
    """A number of an event; "NaN" and the infinities are written as text there. What is no number is NaN."""
    try:
        return float(value)
    except (TypeError, ValueError):
        return math.nan


def values(run: RunLog, key: str) -> Iterator[tuple[Point, float]]:
    """The reports that hold a finite number under `key`."""
    for point in run.points:
        if point.event.get(key) is not None and math.isfinite(value := number(point.event[key])):
            yield point, value

"""What a run has told so far, as the display shows it. Fed with events of the log; knows no terminal."""

import math
import time
from collections import deque
from dataclasses import dataclass, field
from typing import Any

_LOSSES = 4000


@dataclass
class RunState:
    """The latest of everything. Times are seconds since 1970, as in the events."""

    title: str = ""
    phase: str = "starting"
    bad: bool = False  # the phase is a fault
    begun: float = field(default_factory=time.time)
    ended: float | None = None
    iteration: int = 0
    train_iters: int | None = None
    layout: dict[str, int] = field(default_factory=dict)
    step: dict[str, Any] = field(default_factory=dict)  # the last report
    step_time: float = 0.0
    losses: deque[tuple[int, float]] = field(default_factory=lambda: deque(maxlen=_LOSSES))
    held_out: dict[str, tuple[int, float]] = field(default_factory=dict)  # set -> (iteration, loss) at last
    best: dict[str, float] = field(default_factory=dict)
    scores: list[str] = field(default_factory=list)
    saved: dict[str, Any] | None = None
    resumes: list[int] = field(default_factory=list)
    rollbacks: int = 0
    restarts: int = 0
    skipped: int = 0
    faults: list[str] = field(default_factory=list)
    last_fault: str = ""

    def take(self, event: dict[str, Any]) -> None:
        """Bring in one event; what is not known is passed over."""
        handler = getattr(self, f"_on_{event.get('kind')}", None)
        if handler is not None:
            handler(event, float(event.get("time") or time.time()))

    @property
    def ranks(self) -> int:
        return math.prod(self.layout.values()) if self.layout else 1

    def seconds_left(self, now: float) -> float | None:
        """By the speed of the last report."""
        seconds = self.step.get("seconds")
        if self.train_iters is None or not isinstance(seconds, int | float) or self.ended is not None:
            return None
        passed = 0.0 if self.iteration > self.step.get("iteration", 0) else now - self.step_time
        return max(0.0, (self.train_iters - self.iteration) * seconds - min(passed, seconds))

    def _on_start(self, event: dict[str, Any], now: float) -> None:
        self.phase, self.bad, self.ended = "training", False, None
        self.iteration = int(event.get("iteration", 0))
        self.layout = {key: int(size) for key, size in (event.get("layout") or {}).items()}
        self.train_iters = event.get("train_iters", self.train_iters)
        self._forget_after(self.iteration)

    def _on_resume(self, event: dict[str, Any], now: float) -> None:
        self._on_start(event, now)
        self.resumes.append(self.iteration)

    def _on_rollback(self, event: dict[str, Any], now: float) -> None:
        self.iteration = int(event.get("iteration", 0))
        self.rollbacks += 1
        self._forget_after(self.iteration)

    def _on_tick(self, event: dict[str, Any], now: float) -> None:
        self.iteration = int(event["iteration"])
        self.train_iters = event.get("train_iters", self.train_iters)
        self._add_loss(event)

    def _on_step(self, event: dict[str, Any], now: float) -> None:
        self.step, self.step_time = event, now
        self.skipped = int(event.get("skipped") or 0)
        if self.iteration != event.get("iteration") or not self.losses:
            self._add_loss(event)
        self.iteration = int(event["iteration"])
        self.train_iters = event.get("train_iters", self.train_iters)

    def _on_validation(self, event: dict[str, Any], now: float) -> None:
        name, loss = str(event.get("set", event["kind"])), _number(event.get("loss"))
        self.held_out[name] = (int(event.get("iteration", self.iteration)), loss)
        self.best[name] = min(loss, self.best.get(name, math.inf))

    _on_test = _on_validation

    def _on_tasks(self, event: dict[str, Any], now: float) -> None:
        self.scores = []
        for task, metrics in (event.get("scores") or {}).items():
            shown = [(key, value) for key, value in metrics.items() if "," in key and "_stderr" not in key]
            self.scores += [f"{task} {key.split(',')[0]} {_number(value):.4f}" for key, value in shown[:1]]

    def _on_save(self, event: dict[str, Any], now: float) -> None:
        self.saved = event

    def _on_fault(self, event: dict[str, Any], now: float) -> None:
        self._fault(f"{event.get('error', 'fault')}: {event.get('message', '')}", now)

    def _on_exit(self, event: dict[str, Any], now: float) -> None:
        code, cause = event.get("code"), event.get("cause") or ""
        if code == 75:
            self.phase, self.ended = "stopped on request", now
        else:
            self._fault(f"exit code {code}. {cause}".strip(), now)

    def _on_stop(self, event: dict[str, Any], now: float) -> None:
        self.phase, self.ended = f"stopped: {event.get('reason', 'on request')}", now

    def _on_restart(self, event: dict[str, Any], now: float) -> None:
        self.restarts = int(event.get("number", self.restarts + 1))
        self.phase, self.bad, self.ended = f"restarting ({self.restarts})", False, None

    def _on_lost(self, event: dict[str, Any], now: float) -> None:
        """Whoever fed us was killed."""
        if self.ended is None:
            self.phase, self.bad, self.ended = "killed", True, now

    def _on_end(self, event: dict[str, Any], now: float) -> None:
        self.phase, self.bad, self.ended = "done", False, now

    def _fault(self, text: str, now: float) -> None:
        self.phase, self.bad, self.ended = "failed", True, now
        self.faults.append(text)

    def _add_loss(self, event: dict[str, Any]) -> None:
        loss = _number(event.get("loss"))
        if math.isfinite(loss):
            self.losses.append((int(event["iteration"]), loss))

    def _forget_after(self, iteration: int) -> None:
        """What was trained after it will be trained again."""
        while self.losses and self.losses[-1][0] > iteration:
            self.losses.pop()


def _number(value: Any) -> float:
    try:
        return float(value)
    except (TypeError, ValueError):
        return math.nan

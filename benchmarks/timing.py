"""Timing several cases fairly: repeats interleaved in one process, CPU time beside wall time, median and spread."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from statistics import median
from typing import Any

MOST_REPEATS = 20


@dataclass
class Times:
    """Seconds of every repeat."""

    cpu: list[float] = field(default_factory=list)
    wall: list[float] = field(default_factory=list)

    def summary(self) -> dict[str, Any]:
        """Milliseconds; spread: from the fastest to the slowest repeat."""
        found: dict[str, Any] = {"repeats": len(self.cpu)}
        for name, seconds in (("cpu", self.cpu), ("wall", self.wall)):
            found[f"{name}_ms"] = round(median(seconds) * 1e3, 3)
            found[f"{name}_spread_ms"] = [round(min(seconds) * 1e3, 3), round(max(seconds) * 1e3, 3)]
        return found


def interleaved(
    cases: Mapping[str, Callable[[], object]], seconds_per_case: float, least: int = 3, most: int = MOST_REPEATS
) -> dict[str, Times]:
    """Each case once to warm up, then all in turn: as often as the time allows for the slowest, within bounds."""
    slowest = max(_run(case)[1] for case in cases.values())
    repeats = max(least, min(most, round(seconds_per_case / max(slowest, 1e-6))))
    times = {name: Times() for name in cases}
    for _ in range(repeats):
        for name, case in cases.items():
            cpu, wall = _run(case)
            times[name].cpu.append(cpu)
            times[name].wall.append(wall)
    return times


def _run(case: Callable[[], object]) -> tuple[float, float]:
    cpu, wall = time.process_time(), time.perf_counter()
    case()
    return time.process_time() - cpu, time.perf_counter() - wall

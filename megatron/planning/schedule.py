"""The pipeline's schedule simulated: one forward, one backward (1F1B, arXiv 2104.04473), as DeepSpeed runs it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

# Micro-batches per stage beyond which a schedule only repeats itself: simulated so far, continued at its steady pace.
_SIMULATED = 2


@dataclass(frozen=True)
class Work:
    """One box of the picture. Times in seconds."""

    stage: int
    micro: int
    kind: Literal["forward", "backward"]
    start: float
    end: float


@dataclass(frozen=True)
class Schedule:
    """boxes: of the micro-batches that were simulated. seconds: of the whole step's passes.

    bubble: share of all stages' time in which they wait.
    """

    boxes: tuple[Work, ...]
    seconds: float
    bubble: float


def order_of(stage: int, stages: int, micros: int) -> list[tuple[str, int]]:
    """What a stage computes, in order: it runs ahead by its distance from the end, then alternates."""
    ahead = min(stages - stage - 1, micros)
    order = [("forward", micro) for micro in range(ahead)]
    for micro in range(micros - ahead):
        order += [("forward", ahead + micro), ("backward", micro)]
    return order + [("backward", micro) for micro in range(micros - ahead, micros)]


def simulate(forward: Sequence[float], backward: Sequence[float], micros: int, send: float = 0.0) -> Schedule:
    """forward, backward: seconds of one micro-batch on each stage; send: from one stage to the next."""
    stages = len(forward)
    shown = min(micros, max(_SIMULATED * stages, 8))
    boxes = _boxes(forward, backward, shown, send)
    slowest = max(f + b for f, b in zip(forward, backward, strict=True))
    seconds = max(box.end for box in boxes) + (micros - shown) * slowest
    busy = micros * (sum(forward) + sum(backward))
    return Schedule(tuple(boxes), seconds, 1 - busy / (stages * seconds) if seconds else 0.0)


def most_in_flight(stage: int, stages: int, micros: int) -> int:
    """Micro-batches whose activations a stage holds at once."""
    return min(stages - stage, micros)


def _boxes(forward: Sequence[float], backward: Sequence[float], micros: int, send: float) -> list[Work]:
    stages = len(forward)
    orders = [order_of(stage, stages, micros) for stage in range(stages)]
    done: dict[tuple[str, int, int], float] = {}
    free, place = [0.0] * stages, [0] * stages
    boxes: list[Work] = []
    while any(place[stage] < len(orders[stage]) for stage in range(stages)):
        for stage in range(stages):
            while place[stage] < len(orders[stage]):
                kind, micro = orders[stage][place[stage]]
                ready = _ready(kind, stage, micro, stages, done, send)
                if ready is None:
                    break
                start = max(free[stage], ready)
                end = start + (forward if kind == "forward" else backward)[stage]
                done[kind, stage, micro] = free[stage] = end
                boxes.append(Work(stage, micro, "forward" if kind == "forward" else "backward", start, end))
                place[stage] += 1
    return boxes


def _ready(
    kind: str, stage: int, micro: int, stages: int, done: dict[tuple[str, int, int], float], send: float
) -> float | None:
    """When the input of a box is there; None while that is not known."""
    if kind == "forward":
        return 0.0 if stage == 0 else _later(done.get(("forward", stage - 1, micro)), send)
    if stage == stages - 1:
        return done.get(("forward", stage, micro))
    return _later(done.get(("backward", stage + 1, micro)), send)


def _later(time: float | None, by: float) -> float | None:
    return None if time is None else time + by

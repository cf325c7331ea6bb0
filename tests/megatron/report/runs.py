"""Event logs made up for the report's tests."""

import json
from pathlib import Path
from typing import Any

SETTINGS = "num_layers: 2\nhidden_size: 16\noptimizer:\n  type: Adam\n  params: {lr: 0.001}\n"


def step(iteration: int, **changes: Any) -> dict[str, Any]:
    """A step report of a run with two tokens a step, half a second and one TFLOP/s."""
    event = {
        "time": 1000.0 + iteration,
        "kind": "step",
        "iteration": iteration,
        "train_iters": 40,
        "loss": 5.0 - 0.1 * iteration,
        "lr": 0.001,
        "grad_norm": 1.0,
        "tokens_per_second": 4.0,
        "consumed_tokens": 2 * iteration,
        "kept_ratio": 0.25,
        "seconds": 0.5,
        "tflops": 1.0,
        "peak_memory": 2**30,
        "kept_by_layer": [1.0, 0.25],
        "kept_keys_by_layer": [1.0, 0.5],
    }
    return event | changes


def check(iteration: int, loss: float, name: str = "books") -> dict[str, Any]:
    """A held-out loss measured during training."""
    return {"time": 1000.0 + iteration, "kind": "validation", "iteration": iteration, "set": name, "loss": loss}


def start(iteration: int = 0, overrides: tuple[str, ...] = (), **layout: int) -> dict[str, Any]:
    return {
        "time": 1000.0,
        "kind": "resume" if iteration else "start",
        "iteration": iteration,
        "settings": {"texts": [["a.yml", SETTINGS]], "overrides": list(overrides)},
        "layout": layout or {"pipeline": 1, "tensor": 1, "data": 1},
    }


def write_run(folder: Path, *events: dict[str, Any]) -> Path:
    """A run folder with these events; returns the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    text = "".join(json.dumps(event) + "\n" for event in events)
    (folder / "events.jsonl").write_text(text, encoding="utf-8")
    return folder


def short_run(folder: Path, *overrides: str, steps: int = 10) -> Path:
    """A run from start to end with one validation."""
    return write_run(
        folder,
        start(overrides=overrides),
        *(step(iteration) for iteration in range(1, steps + 1)),
        check(steps, 4.25),
        {"time": 1.0, "kind": "end", "iteration": steps},
    )

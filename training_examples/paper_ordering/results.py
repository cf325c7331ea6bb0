"""What the steps of the study measured, read back from their files, per training and summed up per model."""

import json
import math
import statistics
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from megatron.monitor.events import read_events
from megatron.report.run_log import Point, RunLog, read_runs
from megatron.report.same_loss import same_loss
from training_examples.paper_ordering.cells import MODELS, Cell, Study, shape


@dataclass(frozen=True)
class Trained:
    """One training and its scores.

    loss: nats per token over `heldout_tokens`.  kept: share of the causal pairs computed.  keys: share of the last
    token's keys kept, per layer.  flops: of the training.  step_seconds: measured one model after another.
    choice, next_word: accuracies of lm_eval, each with its standard error.  streams: perplexity by kind of cache; may
    be empty.
    where: "positions A-B" or "pairs new", "pairs near", "pairs far" -> nats per token there.
    """

    cell: Cell
    loss: float
    heldout_tokens: int
    tokens: float
    kept: float
    keys: list[float]
    flops: float
    step_seconds: float
    choice: tuple[float, float]
    next_word: tuple[float, float]
    streams: dict[str, float]
    where: dict[str, float]

    def kv_bytes(self, study: Study) -> float:
        """Bytes of keys and values that the last token of a full row needs, all layers, in fp32."""
        settings = shape(study.size)
        return sum(self.keys) * settings["seq_length"] * 2 * settings["hidden_size"] * 4


def read_trained(study: Study, cell: Cell) -> Trained:
    """Everything that was measured of one training."""
    run = run_log(study, cell)
    last = run.points[-1]
    held_out = _held_out(study.log("evaluate", cell))
    scores = _newest_scores(study.scores(cell))
    return Trained(
        cell,
        loss=held_out["loss"],
        heldout_tokens=held_out["tokens"],
        tokens=last.tokens,
        kept=statistics.fmean(point.event["kept_ratio"] for point in run.points),
        keys=[statistics.fmean(layer) for layer in zip(*_keys(run.points), strict=True)],
        flops=last.flops or math.nan,
        step_seconds=_step_seconds(study.timing(cell)),
        choice=_accuracy(scores["ordering_choice"], "acc,none"),
        next_word=_accuracy(scores["ordering_generate"], "exact_match,first-word"),
        streams=_streams(study, cell),
        where=_where(study.where(cell)),
    )


def run_log(study: Study, cell: Cell) -> RunLog:
    """The step reports of a training."""
    [run] = read_runs([study.run(cell)])
    return run


def held_out_curve(study: Study, cell: Cell) -> list[tuple[float, float]]:
    """(training tokens, held-out loss) as measured during training, over a part of the held-out tokens."""
    run = run_log(study, cell)
    tokens_per_step = run.points[-1].tokens / run.points[-1].iteration
    return [(point.iteration * tokens_per_step, point.value) for point in run.sets["validation"]]


def training_apart(study: Study, trained: list[Trained]) -> dict[str, Any]:
    """How far above the first model's training loss each other one lay, per quarter of the steps, nats; by seed.

    Medians over the reports of the same steps, which are of the same tokens: the one after a resume leaves some out.
    """
    points = {one.cell: run_log(study, one.cell).points for one in trained}
    reference = next(model for model in MODELS if any(cell.model == model for cell in points))
    quarters: dict[str, dict[int, list[float]]] = {}
    for cell, mine in points.items():
        others = points.get(Cell(reference, cell.seed), [])
        differences = [difference for _, difference in apart(mine, others)]
        bounds = [len(differences) * quarter // 4 for quarter in range(5)]
        if len(differences) >= 4 and cell.model != reference:
            medians = [statistics.median(differences[low:high]) for low, high in pairwise(bounds)]
            quarters.setdefault(cell.model, {})[cell.seed] = medians
    return {"reference": reference, "quarters": quarters}


def apart(points: list[Point], others: list[Point]) -> list[tuple[float, float]]:
    """(training tokens, loss less that of the others) at every step that both report."""
    there = {point.iteration: point.loss for point in others}
    return [(point.tokens, point.loss - there[point.iteration]) for point in points if point.iteration in there]


def cost_of_same_loss(study: Study, trained: list[Trained]) -> dict[str, Any] | None:
    """What each model, first seed, needed for the lowest held-out loss that all reached. None for too short runs.

    seconds: steps times the measured time of one.
    """
    first = {one.cell.model: one for one in reversed(trained)}
    models = [model for model in MODELS if model in first]
    found = same_loss([run_log(study, first[model].cell) for model in models])
    if found is None:
        return None
    costs = {}
    for model, point in zip(models, found.points, strict=True):
        seconds = point.tokens / first[model].tokens * study.train_iters * first[model].step_seconds
        costs[model] = {"tokens": point.tokens, "flops": point.flops, "seconds": seconds}
    return {"loss": found.loss, "held_out": found.held_out, "models": costs}


def _keys(points: list[Point]) -> list[list[float]]:
    return [point.event["kept_keys_by_layer"] for point in points]


def _held_out(log: Path) -> dict[str, Any]:
    results = [json.loads(line) for line in log.read_text("utf-8").splitlines() if line.startswith("{")]
    return next(result for result in results if result["set"] == "validation")


def _newest_scores(folder: Path) -> dict[str, Any]:
    newest = max(folder.rglob("*.json"), key=lambda path: path.stat().st_mtime)
    results: dict[str, Any] = json.loads(newest.read_text("utf-8"))["results"]
    return results


def _accuracy(result: dict[str, Any], key: str) -> tuple[float, float]:
    name, filtered = key.split(",")
    return float(result[key]), float(result[f"{name}_stderr,{filtered}"])


def _step_seconds(folder: Path) -> float:
    """The median over the steps but the first, which builds what later ones reuse."""
    steps = [event for event in read_events(folder / "events.jsonl") if event["kind"] == "step"]
    return statistics.median(event["seconds"] for event in steps[1:])


def _streams(study: Study, cell: Cell) -> dict[str, float]:
    reports = {kind: study.stream_folder(cell, kind) / "report.json" for kind in study.caches(cell)}
    return {kind: float(json.loads(report.read_text("utf-8"))["perplexity"]) for kind, report in reports.items()}


def _where(file: Path) -> dict[str, float]:
    found = json.loads(file.read_text("utf-8"))
    pairs = {f"pairs {name}": pair["loss"] for name, pair in found["pairs"].items()}
    return {f"positions {name}": loss for name, loss in found["positions"].items()} | pairs

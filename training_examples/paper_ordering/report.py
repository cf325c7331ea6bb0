"""The study's report: one table, the expected order beside the measured one, and three views of the loss."""

import json
import math
import statistics
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from training_examples.paper_ordering.cells import CACHES, MODELS, Cell, Study
from training_examples.paper_ordering.order import as_lines, orders
from training_examples.paper_ordering.results import (
    Trained,
    apart,
    cost_of_same_loss,
    held_out_curve,
    read_trained,
    run_log,
    training_apart,
)
from training_examples.quickstart.closing import machine

COLUMNS = [
    "attention",
    "perplexity",
    "loss, nats",
    "pairs kept",
    "KV of a row",
    "training FLOPs",
    "s/step",
    "right of four",
    "next word",
    *(f"stream, {kind}" for kind in CACHES),
]
_AROUND = 4  # reports


def write_report(study: Study, trained_cells: list[Cell]) -> str:
    """Write report.md, results.json and loss.png into the study's folder; returns the table."""
    trained = [read_trained(study, cell) for cell in trained_cells]
    figures = summary(study, trained)
    figures["same_loss"] = cost_of_same_loss(study, trained)
    figures["training_apart"] = training_apart(study, trained)
    figures["held_out_curves"] = {one.cell.name: held_out_curve(study, one.cell) for one in trained}
    figures["environment"] = machine() | {"commit": _commit()}
    (study.out / "results.json").write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
    table = as_markdown(figures)
    draw(study, trained, study.out / "loss.png")
    (study.out / "report.md").write_text(table + "\n![losses](loss.png)\n", encoding="utf-8")
    return table


def summary(study: Study, trained: list[Trained]) -> dict[str, Any]:
    """All figures of the report: per model those of its first seed, the losses of all its seeds, and the order."""
    models = {}
    for model in MODELS:
        mine = [one for one in trained if one.cell.model == model]
        if mine:
            models[model] = _of_model(study, mine)
    return {
        "size": study.size.name,
        "train_iters": study.train_iters,
        "tokens": trained[0].tokens,
        "heldout_tokens": trained[0].heldout_tokens,
        "stream_tokens": study.stream_tokens,
        "stream_keys": study.size.cached,
        "window_keys": study.size.windowed,
        "models": models,
        "orders": orders(trained),
    }


def as_markdown(figures: dict[str, Any]) -> str:
    """The table and, below it, the order."""
    rows = [
        f"| {' | '.join(COLUMNS)} |",
        "|---" * len(COLUMNS) + "|",
    ]
    rows += [_row(MODELS[model], figure) for model, figure in figures["models"].items()]
    about = (
        f"{figures['tokens']:,.0f} tokens of training each, {figures['heldout_tokens']:,} held-out tokens, streams of "
        f"{figures['stream_tokens']:,} tokens under caches of {figures['stream_keys']} keys on average, the window of "
        f"{figures['window_keys']}."
    )
    where = ["Where they lose, nats per token:", "", *_where(figures["models"])]
    differences, costs = _differences(figures.get("training_apart")), _costs(figures.get("same_loss"))
    parts = [rows, [about], *map(as_lines, figures["orders"]), differences, where, costs]
    return "\n\n".join("\n".join(part) for part in parts if part) + "\n"


def draw(study: Study, trained: list[Trained], out: Path) -> None:
    """Training loss against tokens, FLOPs and seconds (steps x the time measured for one), and how far from the first.

    The last view is of differences at the same step, where all models read the same tokens: far less noise than losses.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    first = {one.cell.model: one for one in reversed(trained)}
    runs = {model: first[model] for model in MODELS if model in first}
    curves = {model: run_log(study, one.cell).points for model, one in runs.items()}
    reference = next(iter(curves))
    figure = Figure(figsize=(11, 8), layout="constrained")
    FigureCanvasAgg(figure)
    views: list[tuple[str, Callable[[Any, Trained], float]]] = [
        ("training tokens, millions", lambda point, one: point.tokens / 1e6),
        ("training FLOPs, 10^12", lambda point, one: (point.flops or math.nan) / 1e12),
        ("seconds (steps x seconds of a step)", lambda point, one: point.iteration * one.step_seconds),
    ]
    for place, (label, across) in enumerate(views):
        axes = figure.add_subplot(2, 2, place + 1, xlabel=label, ylabel="training loss, nats per token")
        for number, (model, points) in enumerate(curves.items()):
            x = [across(point, runs[model]) for point in points]
            losses = _around([point.loss for point in points], statistics.fmean)
            axes.plot(x, losses, color=f"C{number}", label=MODELS[model], linewidth=1.2)
        axes.set_ylim(top=min(7.0, axes.get_ylim()[1]))
    figure.axes[0].legend(frameon=False, fontsize=8)
    axes = figure.add_subplot(
        2, 2, 4, xlabel=views[0][0], ylabel=f"training loss less that of {_short(reference)}, nats"
    )
    for number, points in enumerate(curves.values()):
        tokens, differences = zip(*apart(points, curves[reference]), strict=True)
        # Medians: the report after a resume is a mean over fewer steps, so not of the same tokens.
        y = _around(differences, statistics.median)
        axes.plot([token / 1e6 for token in tokens], y, color=f"C{number}", linewidth=1.2)
    for axes in figure.axes:
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(out, dpi=110)


def _of_model(study: Study, mine: list[Trained]) -> dict[str, Any]:
    """mine: its trainings, the first seed first. Means over seeds would not compare with models trained once."""
    first = mine[0]
    return {
        "seeds": {one.cell.seed: one.loss for one in mine},
        "loss": first.loss,
        "perplexity": math.exp(first.loss),
        "kept": first.kept,
        "kv_bytes": first.kv_bytes(study),
        "flops": first.flops,
        "step_seconds": first.step_seconds,
        "choice": first.choice[0],
        "choice_error": first.choice[1],
        "next_word": first.next_word[0],
        "next_word_error": first.next_word[1],
        "streams": first.streams,
        "stream_seeds": {one.cell.seed: one.streams for one in mine},
        "where": first.where,
        "where_seeds": {one.cell.seed: one.where for one in mine},
    }


def _row(name: str, figure: dict[str, Any]) -> str:
    cells = [
        name,
        f"{figure['perplexity']:.2f}",
        " / ".join(f"{loss:.4f}" for loss in figure["seeds"].values()),
        f"{100 * figure['kept']:.1f} %",
        f"{figure['kv_bytes'] / 1e6:.2f} MB",
        f"{figure['flops'] / 1e12:,.0f}e12",
        f"{figure['step_seconds']:.2f}",
        f"{100 * figure['choice']:.1f} ± {100 * figure['choice_error']:.1f} %",
        f"{100 * figure['next_word']:.1f} ± {100 * figure['next_word_error']:.1f} %",
        *(f"{figure['streams'][kind]:.2f}" if kind in figure["streams"] else "-" for kind in CACHES),
    ]
    return f"| {' | '.join(cells)} |"


def _differences(found: dict[str, Any] | None) -> list[str]:
    """A table of the training losses less the first model's, by quarters of the training."""
    if not found or not found["quarters"]:
        return []
    lines = [
        f"Training loss less that of {_short(found['reference'])} at the same steps, nats per token:",
        "",
        "| attention | first quarter | second | third | last |",
        "|---|---|---|---|---|",
    ]
    for model, by_seed in found["quarters"].items():
        quarters = [" / ".join(f"{less:+.4f}" for less in seeds) for seeds in zip(*by_seed.values(), strict=True)]
        lines.append(f"| {MODELS[model]} | {' | '.join(quarters)} |")
    return lines


def _where(models: dict[str, Any]) -> list[str]:
    """A table of the losses by position, and by how far back the same pair of tokens stood."""
    places = list(next(iter(models.values()))["where"])
    lines = [f"| attention | {' | '.join(places)} |", "|---" * (len(places) + 1) + "|"]
    for model, figure in models.items():
        losses = [f"{figure['where'][place]:.3f}" for place in places]
        lines.append(f"| {MODELS[model]} | {' | '.join(losses)} |")
    return lines


def _short(model: str) -> str:
    return MODELS[model].split(",")[0].replace("Full", "full")


def _costs(same: dict[str, Any] | None) -> list[str]:
    """A table of what the lowest loss that all reached cost each."""
    if same is None:
        return []
    kind = "smoothed training" if same["held_out"] is None else "held-out"
    lines = [
        f"What a {kind} loss of {same['loss']:.3f} nats cost, the lowest that all reached (during training):",
        "",
        "| attention | million tokens | FLOPs | seconds |",
        "|---|---|---|---|",
    ]
    for model, cost in same["models"].items():
        flops = "?" if cost["flops"] is None else f"{cost['flops'] / 1e12:,.0f}e12"
        lines.append(f"| {MODELS[model]} | {cost['tokens'] / 1e6:.2f} | {flops} | {cost['seconds']:,.0f} |")
    return lines


def _around(values: Sequence[float], middle: Callable[[Sequence[float]], float]) -> list[float]:
    """For each value the middle, a mean or a median, of it and a few before and after."""
    windows = (values[max(0, place - _AROUND) : place + _AROUND + 1] for place in range(len(values)))
    return [middle(window) for window in windows]


def _commit() -> str | None:
    """Of the code that wrote the report; None without git."""
    asked = subprocess.run(["git", "describe", "--always", "--dirty"], capture_output=True, text=True, check=False)
    return asked.stdout.strip() or None

"""Several streaming runs side by side: a table, and a picture of perplexity, keys seen and time against tokens."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sepllm.errors import ConfigError
from sepllm.streaming.run import REPORT


@dataclass(frozen=True)
class Run:
    """The report of one run. curve: rows of [tokens, nats, keys seen, seconds, bytes cached], from the start."""

    name: str
    content: dict[str, Any]

    @property
    def curve(self) -> list[list[float]]:
        return [list(point) for point in self.content["curve"]]


def read_runs(folders: Sequence[str | Path]) -> list[Run]:
    """Reports of finished runs. ConfigError for a folder without one."""
    runs = []
    for folder in map(Path, folders):
        path = folder / REPORT
        if not path.is_file():
            raise ConfigError(f"{path} does not exist: give folders of finished runs (--output_dir).")
        runs.append(Run(folder.name, json.loads(path.read_text(encoding="utf-8"))))
    return runs


def table(runs: Sequence[Run]) -> str:
    """Markdown, a row for each run. Keys seen are measured, not a formula."""
    lines = [
        "| run | tokens | perplexity | keys seen, average | most | cache | tokens/s | seconds |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for run in runs:
        content = run.content
        lines.append(
            f"| {run.name} | {content['tokens']:,} | {content['perplexity']:.4f} | {content['average_keys_seen']:.0f} "
            f"| {content['most_keys_seen']} | {content['cache_bytes'] / 1e6:.2f} MB "
            f"| {content['tokens_per_second'] or math.nan:.0f} | {content['seconds']:.0f} |"
        )
    return "\n".join(lines)


def plot(runs: Sequence[Run], out: Path) -> Path:
    """Draw the runs into one picture (PNG, SVG or PDF by the ending). ConfigError without matplotlib."""
    try:
        import matplotlib

        matplotlib.use("Agg")
        from matplotlib import pyplot
    except ImportError as error:
        raise ConfigError("The picture needs matplotlib: pip install matplotlib.") from error
    figure, axes = pyplot.subplots(1, 3, figsize=(15, 4.2))
    for run in runs:
        tokens, nats, seen, seconds, _ = map(list, zip(*run.curve, strict=True))
        axes[0].plot(
            tokens, [math.exp(total / count) for total, count in zip(nats, tokens, strict=True)], label=run.name
        )
        axes[1].plot(tokens, [total / count for total, count in zip(seen, tokens, strict=True)], label=run.name)
        axes[2].plot(tokens, seconds, label=run.name)
    for axis, label in zip(axes, ("perplexity of all tokens so far", "keys seen by a token", "seconds"), strict=True):
        axis.set_xlabel("tokens")
        axis.set_title(label, loc="left")
        axis.grid(alpha=0.25)
        axis.spines[["top", "right"]].set_visible(False)
        axis.set_ylim(bottom=None if axis is axes[0] else 0)
    axes[0].legend(frameon=False)
    out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(out, dpi=150, bbox_inches="tight")
    pyplot.close(figure)
    return out

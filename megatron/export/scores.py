"""Scores for the model card, from results files of lm_eval or of `deepy.py eval.py`."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from megatron.errors import SettingsError


@dataclass(frozen=True)
class Score:
    """error: standard error, or None where the file has none."""

    task: str
    metric: str
    value: float
    error: float | None


def read_scores(paths: Sequence[str | Path]) -> list[Score]:
    """All scores of all files, in their order. Raises SettingsError for files that hold none."""
    return [score for path in paths for score in _read(Path(path))]


def score_table(scores: Sequence[Score]) -> str:
    """Markdown."""
    rows = [
        f"| {score.task} | {score.metric} | {score.value:.4f} | {'' if score.error is None else f'{score.error:.4f}'} |"
        for score in scores
    ]
    return "\n".join(["| task | metric | value | standard error |", "|---|---|---|---|", *rows])


def _read(path: Path) -> list[Score]:
    try:
        results = json.loads(path.read_text(encoding="utf-8"))["results"]
        pairs = results.items() if isinstance(results, dict) else [_named(line) for line in results]
        scores = [score for task, found in pairs for score in _scores(task, found)]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise SettingsError(
            f"--results {path}: not a results file ({type(error).__name__}: {error}). Give the JSON that lm_eval "
            "writes with --output_path, or eval.py with eval_results_prefix."
        ) from error
    if not scores:
        raise SettingsError(f"--results {path}: it holds no scores.")
    return scores


def _named(line: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """A line of eval.py: a task with its scores, or a held-out set with its loss."""
    if "task" in line:
        return line["task"], line["scores"]
    return line["set"], {key: line[key] for key in ("loss", "perplexity") if key in line}


def _scores(task: str, found: dict[str, Any]) -> list[Score]:
    """lm_eval's entries are "metric,filter" and "metric_stderr,filter"."""
    scores = []
    for key, value in found.items():
        metric, _, kind = key.partition(",")
        if metric.endswith("_stderr") or not isinstance(value, int | float) or isinstance(value, bool):
            continue
        if key in ("sample_len", "sample_count"):
            continue
        error = found.get(f"{metric}_stderr,{kind}")
        name = metric if kind in ("", "none") else f"{metric} ({kind})"
        scores.append(Score(task, name, float(value), error if isinstance(error, float) else None))
    return scores

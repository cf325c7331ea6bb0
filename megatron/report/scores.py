"""Evaluation results for the report, from the JSON files of eval.py and of lm_eval: tasks and held-out losses."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from megatron.errors import DataError
from megatron.report.run_log import RunLog


@dataclass(frozen=True)
class Score:
    """One figure of one task. run: the run's name, or the file's for results of a model from elsewhere."""

    run: str
    iteration: int | None
    task: str
    metric: str
    value: float
    error: float | None = None


def read_scores(runs: Sequence[RunLog], extra: Iterable[str | Path] = ()) -> list[Score]:
    """From the runs' folders, and from the files of `extra`. DataError for a file of `extra` that holds no results."""
    found: list[Score] = []
    for run in runs:
        for path in sorted(run.folder.glob("*eval_results_*.json")):
            found += _scores(path, runs, must=False)
    for path in map(Path, extra):
        found += _scores(path, runs, must=True)
    return list(dict.fromkeys(found))


def _scores(path: Path, runs: Sequence[RunLog], must: bool) -> list[Score]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        results = content["results"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        if not must:
            return []
        raise DataError(
            f"{path} holds no evaluation results ({error}). Expected the JSON that eval.py writes with"
            " eval_results_prefix, or lm_eval with --output_path."
        ) from None
    if isinstance(results, dict):  # lm_eval's own file
        return [score for task, found in results.items() for score in _of_task(path.stem, None, task, found)]
    scores: list[Score] = []
    for line in results:
        name, iteration = _run_of(line, path, runs), line.get("iteration")
        if "scores" in line:
            scores += _of_task(name, iteration, str(line["task"]), line["scores"])
        elif "loss" in line:
            scores.append(Score(name, iteration, str(line.get("set", "held-out")), "loss", float(line["loss"])))
    return scores


def _run_of(line: dict[str, Any], path: Path, runs: Sequence[RunLog]) -> str:
    checkpoint = line.get("checkpoint")
    homes = [Path(checkpoint).resolve().parent] if checkpoint else []
    return next(
        (run.name for home in [*homes, path.resolve().parent] for run in runs if run.folder.resolve() == home),
        path.stem,
    )


def _of_task(run: str, iteration: int | None, task: str, found: dict[str, Any]) -> list[Score]:
    """lm_eval writes `metric,filter` beside `metric_stderr,filter`."""
    scores = []
    for key, value in found.items():
        metric, _, kind = key.partition(",")
        if isinstance(value, int | float) and not isinstance(value, bool) and not metric.endswith("_stderr"):
            error = found.get(f"{metric}_stderr,{kind}" if kind else f"{metric}_stderr")
            if metric not in ("alias", "sample_len"):
                label = metric if kind in ("", "none") else f"{metric} ({kind})"
                spread = float(error) if isinstance(error, int | float) else None
                scores.append(Score(run, iteration, task, label, float(value), spread))
    return scores

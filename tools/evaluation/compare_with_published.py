"""Results files side by side, with the figures of the original's authors (published.yml) as columns beside them.

  compare_with_published.py results/a.json results/b.json --published "SepLLM n=64" --published full

Takes files of eval.py and of lm_eval's --output_path. Only tasks that some file holds are shown.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from megatron.errors import DataError
from megatron.launcher.entry import run_main

HERE = Path(__file__).resolve().parent
_NOT_METRICS = ("alias", "name", "sample_len", "sample_count")

Scores = dict[tuple[str, str], tuple[float, float | None]]
"""(task, metric) -> (value, standard error). Metric without ",none": "acc"; with another filter: "acc,first-word"."""


@dataclass(frozen=True)
class Column:
    """title: file name or published model. source: where the figures are from."""

    title: str
    source: str
    scores: Scores


def read_results(path: Path) -> Column:
    """Raises DataError for a file that is neither eval.py's nor lm_eval's."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        found = content["results"]
        if isinstance(found, list):
            found = {line["task"]: line["scores"] for line in found if "task" in line}
        scores = {
            (task, name.removesuffix(",none")): (float(value), _error_of(metrics, name))
            for task, metrics in {**found, **content.get("groups", {})}.items()
            for name, value in metrics.items()
            if name not in _NOT_METRICS and "_stderr" not in name and isinstance(value, int | float)
        }
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(
            f"{path} is no results file ({type(error).__name__}: {error}). Expected PREFIX_eval_results_TIME.json of "
            "eval.py, or results_TIME.json of lm_eval."
        ) from error
    return Column(path.stem, str(path), scores)


def published(fragments: Sequence[str]) -> list[Column]:
    """Every published model whose name holds one of the fragments. Raises DataError for one that finds none."""
    content = yaml.safe_load((HERE / "published.yml").read_text(encoding="utf-8"))
    for fragment in fragments:
        if not any(fragment in title for title in content):
            raise DataError(f"--published {fragment!r} names nothing. There are: {'; '.join(content)}.")
    return [
        Column(
            title,
            entry["source"],
            {(task, name): (value, None) for task, scores in entry["scores"].items() for name, value in scores.items()},
        )
        for title, entry in content.items()
        if any(fragment in title for fragment in fragments)
    ]


def table(results: Sequence[Column], beside: Sequence[Column]) -> str:
    """Markdown: one row per task and metric, our columns first, published ones in italics; sources below."""
    columns = [*results, *beside]
    rows = list(dict.fromkeys(key for column in results for key in column.scores))
    lines = ["| task | metric | " + " | ".join(_title(column, results) for column in columns) + " |"]
    lines.append("|---" * (len(columns) + 2) + "|")
    for key in rows:
        cells = [_cell(column.scores.get(key)) for column in columns]
        lines.append(f"| {key[0]} | {key[1]} | " + " | ".join(cells) + " |")
    lines += ["", *(f"- {column.title}: {column.source}" for column in columns)]
    if beside:
        lines.append("- Published figures (italic) are the original authors' own; none was measured here.")
    return "\n".join(lines)


def _error_of(metrics: dict[str, Any], name: str) -> float | None:
    metric, _, chosen = name.partition(",")
    error = metrics.get(f"{metric}_stderr,{chosen}")
    return float(error) if isinstance(error, int | float) else None


def _title(column: Column, results: Sequence[Column]) -> str:
    return column.title if column in results else f"*{column.title}*"


def _cell(found: tuple[float, float | None] | None) -> str:
    if found is None:
        return ""
    value, error = found
    return f"{value:.4f}" + (f" ± {error:.4f}" if error is not None else "")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", nargs="+", type=Path, metavar="RESULTS.json")
    parser.add_argument("--published", action="append", default=[], metavar="PART", help="part of a published name")
    arguments = parser.parse_args()
    print(table([read_results(path) for path in arguments.results], published(arguments.published)))
    return 0


if __name__ == "__main__":
    run_main(main)

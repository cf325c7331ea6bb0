"""`python deepy.py report RUN...`: one HTML page about one or several runs, from their event logs."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from megatron.errors import SettingsError
from megatron.report.charts import detail_charts, layer_charts, loss_axes, loss_chart, task_charts
from megatron.report.page import page
from megatron.report.png import write_pngs
from megatron.report.run_log import read_runs
from megatron.report.scores import read_scores


def parser() -> argparse.ArgumentParser:
    """The command's options."""
    parser = argparse.ArgumentParser(
        prog="deepy.py report", description="One self-contained HTML page about training runs, several overlaid."
    )
    parser.add_argument("runs", nargs="+", metavar="RUN", help="a run's save folder (or log_dir), or its events.jsonl")
    parser.add_argument("--out", metavar="FILE", default="report.html", type=Path, help="default: report.html")
    parser.add_argument("--png", metavar="DIR", type=Path, help="write every chart as PNG into this folder as well")
    parser.add_argument(
        "--scores", metavar="JSON", nargs="+", default=[], help="evaluation results that lie outside the run folders"
    )
    parser.add_argument("--title", metavar="TEXT", help="heading of the page")
    return parser


def main(argv: Sequence[str]) -> int:
    """Write the page and say where it is."""
    given = parser().parse_args(argv)
    runs = read_runs(given.runs)
    text = page(runs, read_scores(runs, given.scores), given.title)
    try:
        given.out.parent.mkdir(parents=True, exist_ok=True)
        given.out.write_text(text, encoding="utf-8")
    except OSError as error:
        raise SettingsError(f"cannot write the report {given.out}: {error.strerror}. Choose another --out.") from None
    print(f"wrote {given.out} ({len(text) / 1024:.0f} KiB): {', '.join(run.name for run in runs)}")
    if given.png is not None:
        charts = (
            [loss_chart(runs, axis) for axis in loss_axes(runs)]
            + layer_charts(runs)
            + detail_charts(runs)
            + task_charts(runs)
        )
        print(f"wrote {len(write_pngs(charts, given.png))} pictures in {given.png}")
    return 0

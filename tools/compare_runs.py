"""Compare runs by their event logs: loss at equal steps, validation, speed, share of pairs kept; a picture on request.

python tools/compare_runs.py runs/160m-full runs/160m-n64 --out loss.png
The first run is the one the others are compared with. A loss is the mean of the last five step lines.
"""

import argparse
import statistics
import sys
from dataclasses import dataclass
from pathlib import Path

# Runs from a plain clone, without installation.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from megatron.errors import DataError
from megatron.launcher.entry import run_main
from megatron.monitor.events import read_events
from megatron.monitor.plot import LossCurve, plot_losses, read_curve

# Step lines whose mean stands for "the loss at that step": one batch alone is too noisy to compare.
LINES = 5


@dataclass(frozen=True)
class Speed:
    """Medians over the step lines after the first, which pays for warming up; None where a run has no such line."""

    tokens_per_second: float | None
    kept_ratio: float | None


def main() -> None:
    flags = _parser().parse_args()
    logs = [_log_of(run) for run in flags.runs]
    curves = [read_curve(log) for log in logs]
    print(table(curves, [read_speed(log) for log in logs]))
    if flags.out is not None:
        print(f"wrote {plot_losses(logs, flags.out)}")


def table(curves: list[LossCurve], speeds: list[Speed]) -> str:
    """Aligned lines: a head, then one for each run. Losses are taken at the last step that all runs have reached."""
    empty = [curve.name for curve in curves if not curve.train]
    if empty:
        raise DataError(f"no step lines in {', '.join(empty)}: did the run reach its first log_interval?")
    step = min(curve.train[-1][0] for curve in curves)
    losses = [_loss_at(curve, step) for curve in curves]
    rows = [["run", f"loss at step {step:,}", "difference", "validation", "tokens/s", "kept"]]
    for curve, speed, loss in zip(curves, speeds, losses, strict=True):
        difference = "" if curve is curves[0] else f"{loss - losses[0]:+.4f}"
        rows.append([curve.name, f"{loss:.4f}", difference, _validation(curve, step), *_shown(speed)])
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = []
    for name, *figures in rows:
        cells = [name.ljust(widths[0]), *(text.rjust(width) for text, width in zip(figures, widths[1:], strict=True))]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)


def read_speed(log: Path) -> Speed:
    """Median speed and share of kept pairs of an event log."""
    steps = [event for event in read_events(log) if event["kind"] == "step"]
    tokens = [event["tokens_per_second"] for event in steps[1:] or steps if event.get("tokens_per_second")]
    kept = [event["kept_ratio"] for event in steps if event.get("kept_ratio") is not None]
    return Speed(statistics.median(tokens) if tokens else None, statistics.median(kept) if kept else None)


def _loss_at(curve: LossCurve, step: int) -> float:
    return statistics.fmean([loss for iteration, loss in curve.train if iteration <= step][-LINES:])


def _validation(curve: LossCurve, step: int) -> str:
    """The last losses up to this step, of all validation sets."""
    last = {name: [loss for at, loss in points if at <= step] for name, points in curve.validation.items()}
    found = {name: losses[-1] for name, losses in last.items() if losses}
    if list(found) == ["validation"]:
        return f"{found['validation']:.4f}"
    return ", ".join(f"{name} {loss:.4f}" for name, loss in found.items())


def _shown(speed: Speed) -> list[str]:
    tokens = "" if speed.tokens_per_second is None else f"{speed.tokens_per_second:,.0f}"
    return [tokens, "" if speed.kept_ratio is None else f"{100 * speed.kept_ratio:.1f}%"]


def _log_of(run: Path) -> Path:
    log = run / "events.jsonl" if run.is_dir() else run
    if not log.is_file():
        raise DataError(f"{run}: no event log here. Name a run's save folder, or its events.jsonl.")
    return log


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, nargs="+", metavar="RUN", help="save folder of a run, or its events.jsonl")
    parser.add_argument("--out", type=Path, help="picture of the losses; the ending decides: .png, .svg, .pdf")
    return parser


if __name__ == "__main__":
    run_main(main)

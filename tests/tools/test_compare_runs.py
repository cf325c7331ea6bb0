"""tools/compare_runs.py: the losses of runs at the last step they share, beside speed and kept pairs."""

import subprocess
import sys
from pathlib import Path

import pytest

from megatron.errors import DataError
from megatron.monitor.events import EventLog
from megatron.monitor.plot import LossCurve, read_curve
from tools.compare_runs import Speed, read_speed, table

ROOT = Path(__file__).resolve().parents[2]


def write_run(folder: Path, losses: list[float], speed: float = 100.0, kept: float = 1.0) -> Path:
    with EventLog(folder / "events.jsonl") as log:
        log.write("start")
        for number, loss in enumerate(losses):
            tokens = 1.0 if number == 0 else speed + number
            log.write("step", iteration=10 * (number + 1), loss=loss, tokens_per_second=tokens, kept_ratio=kept)
        log.write("validation", iteration=10 * len(losses), loss=7.0)
    return folder


def compare(*arguments: object) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, str(ROOT / "tools" / "compare_runs.py"), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=600)


def test_the_command_prints_a_table_and_draws(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="plots need matplotlib")
    full = write_run(tmp_path / "full", [9, 8, 5, 4, 3, 2, 1, 99], speed=100)
    sparse = write_run(tmp_path / "sparse", [9, 8, 5.5, 4.5, 3.5, 2.5, 1.5], speed=200, kept=0.216)
    done = compare(full, sparse, "--out", tmp_path / "loss.png")
    assert done.returncode == 0, done.stderr
    head, first, second, wrote = done.stdout.splitlines()
    assert head.split() == ["run", "loss", "at", "step", "70", "difference", "validation", "tokens/s", "kept"]
    # Means of the last five lines up to step 70; the first run's validation came later.
    assert first.split() == ["full", "3.0000", "104", "100.0%"]
    assert second.split() == ["sparse", "3.5000", "+0.5000", "7.0000", "204", "21.6%"]
    assert wrote == f"wrote {tmp_path / 'loss.png'}" and (tmp_path / "loss.png").read_bytes().startswith(b"\x89PNG")
    assert compare(full / "events.jsonl").stdout.splitlines()[1].split()[1] == "21.8000"


def test_named_validation_sets_keep_their_names() -> None:
    curve = LossCurve("a", train=[(1, 2.0), (2, 1.0)], validation={"books": [(1, 3.0), (2, 2.5)], "code": [(1, 4.0)]})
    assert "books 2.5000, code 4.0000" in table([curve], [Speed(None, None)])


def test_the_first_line_does_not_count_for_speed(tmp_path: Path) -> None:
    write_run(tmp_path / "a", [3, 2, 1, 1], speed=50)
    assert read_speed(tmp_path / "a" / "events.jsonl") == Speed(52.0, 1.0)
    write_run(tmp_path / "b", [3])
    assert read_speed(tmp_path / "b" / "events.jsonl") == Speed(1.0, 1.0)


def test_what_cannot_be_compared_is_said(tmp_path: Path) -> None:
    done = compare(tmp_path / "gone")
    assert done.returncode == 3 and "gone: no event log here" in done.stderr
    with EventLog(tmp_path / "short" / "events.jsonl") as log:
        log.write("start")
    with pytest.raises(DataError, match="no step lines in short"):
        table([read_curve(tmp_path / "short" / "events.jsonl")], [Speed(None, None)])

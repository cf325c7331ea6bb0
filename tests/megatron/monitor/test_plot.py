"""Loss pictures from event logs."""

import math
from pathlib import Path

import pytest

from megatron.errors import DataError, SettingsError
from megatron.monitor.events import EventLog
from megatron.monitor.plot import plot_losses, read_curve, smooth, smooth_both_ways

pytest.importorskip("matplotlib", reason="plots need matplotlib")


def write_run(path: Path, steps: int, resume_at: int | None = None) -> Path:
    with EventLog(path) as log:
        log.write("start")
        for iteration in range(1, steps + 1):
            log.write("step", iteration=iteration, loss=9 / iteration)
        if resume_at is not None:
            log.write("resume", iteration=resume_at)
            log.write("step", iteration=resume_at + 1, loss=1.5)
        log.write("validation", iteration=steps, loss=2.0)
    return path


def test_a_resume_takes_back_what_came_after_it(tmp_path: Path) -> None:
    curve = read_curve(write_run(tmp_path / "a" / "events.jsonl", steps=5, resume_at=3))
    assert curve.name == "a"
    assert curve.train == [(1, 9.0), (2, 4.5), (3, 3.0), (4, 1.5)]
    assert curve.validation == {"validation": [(5, 2.0)]} and curve.resumes == [3]


@pytest.mark.parametrize("ending", ["png", "svg"])
def test_a_picture_is_made(tmp_path: Path, ending: str) -> None:
    runs = [
        write_run(tmp_path / "long.jsonl", steps=60, resume_at=30),
        write_run(tmp_path / "short.jsonl", steps=3),
    ]
    out = plot_losses(runs, tmp_path / "pictures" / f"loss.{ending}")
    data = out.read_bytes()
    assert data.startswith(b"\x89PNG") if ending == "png" else b"<svg" in data
    assert len(data) > 5000


def test_smoothing() -> None:
    assert smooth([3.0, 3.0, 3.0], 0.9) == pytest.approx([3.0, 3.0, 3.0])
    assert smooth([1.0, 2.0], 0.0) == [1.0, 2.0]
    rough = smooth([1.0, math.nan, math.inf, 3.0], 0.5)
    assert rough[1] == rough[2] == 1.0 and 1.0 < rough[3] < 3.0
    assert smooth([], 0.9) == []


def test_nan_losses_are_read(tmp_path: Path) -> None:
    with EventLog(tmp_path / "e.jsonl") as log:
        log.write("step", iteration=1, loss=math.nan)
        log.write("step", iteration=2, loss=3.0)
    assert plot_losses([tmp_path / "e.jsonl"], tmp_path / "x.png").exists()


def test_nothing_to_draw_or_nowhere_to_put_it(tmp_path: Path) -> None:
    with EventLog(tmp_path / "e.jsonl") as log:
        log.write("start")
    with pytest.raises(DataError, match="no loss in"):
        plot_losses([tmp_path / "e.jsonl"], tmp_path / "x.png")
    run = write_run(tmp_path / "r.jsonl", steps=2)
    with pytest.raises(SettingsError, match="cannot write the picture"):
        plot_losses([run], run / "x.png")


def test_smoothing_both_ways_does_not_lag() -> None:
    """Of a straight fall the forward mean is always late; both ways the middle stays where it is."""
    course = [100.0 - step for step in range(101)]
    assert smooth(course, 0.9)[50] > course[50] + 5
    assert smooth_both_ways(course, 0.9)[50] == pytest.approx(course[50], abs=0.1)
    assert smooth_both_ways([3.0, 4.0], 0.0) == [3.0, 4.0]

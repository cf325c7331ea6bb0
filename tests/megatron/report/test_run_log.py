"""Event logs become runs: sums, resumes, names."""

import math
from pathlib import Path

import pytest

from megatron.errors import DataError
from megatron.report.run_log import read_runs
from tests.megatron.report.runs import short_run, start, step, write_run


def test_sums_over_steps_and_ranks(tmp_path: Path) -> None:
    log = write_run(tmp_path / "a", start(pipeline=2, tensor=1, data=3), step(4), step(8, tflops=2.0, seconds=0.25))
    (run,) = read_runs([log])
    assert [point.seconds for point in run.points] == [4 * 0.5, 4 * 0.5 + 4 * 0.25]
    assert [point.flops for point in run.points] == [6 * 1e12 * 2.0, 6 * 1e12 * (2.0 + 2.0 * 1.0)]
    assert run.points[-1].tokens == 16


def test_a_resume_takes_back_what_will_be_trained_again(tmp_path: Path) -> None:
    validation = {"time": 1.0, "kind": "validation", "iteration": 3, "set": "books", "loss": 4.0}
    events = (start(), step(1), step(2), step(3, loss=9.0), validation)
    fault = {"time": 2.0, "kind": "exit", "code": 6, "cause": "rank 1 was killed"}
    (run,) = read_runs([write_run(tmp_path, *events, fault, start(2), step(3, loss=1.0), step(4))])
    assert [(point.iteration, point.loss) for point in run.points] == [(1, 4.9), (2, 4.8), (3, 1.0), (4, 4.6)]
    assert run.points[-1].seconds == 2.0
    assert run.sets == {}
    assert run.repeated == 1
    assert [(incident.kind, incident.iteration) for incident in run.incidents] == [("exit", 3), ("resume", 2)]
    assert "exit code 6. rank 1 was killed" in run.incidents[0].text


def test_a_rollback_counts_from_where_it_had_come(tmp_path: Path) -> None:
    back = {"time": 2.0, "kind": "rollback", "iteration": 2, "reached": 5, "left_behind": [4, 10]}
    (run,) = read_runs([write_run(tmp_path, start(), step(2), step(4), back, step(4))])
    assert run.repeated == 3
    assert [point.iteration for point in run.points] == [2, 4]


def test_losses_that_are_no_numbers_are_read_and_a_cut_line_is_passed_over(tmp_path: Path) -> None:
    folder = write_run(tmp_path, start(), step(1, loss="NaN"), step(2, tflops=None))
    with (folder / "events.jsonl").open("a") as file:
        file.write('{"kind": "step", "itera')
    (run,) = read_runs([folder])
    assert math.isnan(run.points[0].loss)
    assert run.points[1].flops is None


def test_names_are_as_short_as_they_can_be(tmp_path: Path) -> None:
    for name in ("one/run", "two/run", "other"):
        short_run(tmp_path / name)
    runs = read_runs([tmp_path / "one/run", tmp_path / "two/run/events.jsonl"])
    assert [run.name for run in runs] == ["one/run", "two/run"]
    assert [run.name for run in read_runs([tmp_path / "one/run", tmp_path / "other"])] == ["run", "other"]
    assert [run.name for run in read_runs([tmp_path / "other"] * 2)] == ["other (1)", "other (2)"]


def test_what_is_no_run_is_refused_with_what_to_name(tmp_path: Path) -> None:
    short_run(tmp_path / "inner")
    with pytest.raises(DataError, match=r"holds no events.jsonl.*Runs in it: .*inner"):
        read_runs([tmp_path])
    write_run(tmp_path / "empty", start())
    with pytest.raises(DataError, match="tells of no training step"):
        read_runs([tmp_path / "empty"])

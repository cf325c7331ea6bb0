"""A rank is killed or stops for good, at every kind of moment: all are gone in time, and the run can go on."""

from collections.abc import Callable
from pathlib import Path

import pytest

from megatron.checkpointing.reader import CheckpointReader, find_checkpoint
from tests.faults.live_run import LiveRun
from tests.faults.scorecard import scoring
from tests.helpers.tiny_run import write_tiny_data

LIMIT = 18.0
KILLS = ["1,training,3", "0,training,4", "1,saving,4", "0,evaluation,4", "1,agreeing,3"]
STOPS = ["1,training,3", "0,evaluation,4", "1,saving,4", "0,loading,0"]

pytestmark = [pytest.mark.multiprocess, pytest.mark.slow]


def patience(goal: float) -> float:
    """Seconds for processes to end: the goal where results are made, else far less than the 30 minutes feared."""
    return goal if scoring() else 120.0


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_data(tmp_path_factory.mktemp("data"))


def test_killed(tmp_path: Path, data: Path, score: Callable[..., None]) -> None:
    held, seconds = 0, []
    for batch in (KILLS[:3], KILLS[3:]):
        runs = [LiveRun(tmp_path / f"kill{KILLS.index(moment)}", data, f"{moment},SIGKILL,SIGN") for moment in batch]
        for run in runs:
            code = run.end()
            step = CheckpointReader(find_checkpoint(run.save)).iteration
            seconds.append(run.seconds_after_fault())
            good = code == 6 and seconds[-1] < patience(LIMIT + 5) and not run.orphans() and step % 2 == 0
            assert good, (code, seconds[-1], run.orphans(), run.output())
            held += good
            [exit_] = run.events("exit")
            assert exit_["code"] == 6 and "SIGKILL" in run.output()
    again = LiveRun(tmp_path / "again", data, save=runs[0].save, auto_resume=True, train_iters=step + 2)
    assert again.end() == 0, again.output()
    assert again.events("resume")[-1]["iteration"] >= 2
    score("S21", held, len(KILLS), "peers wait for the default limit of 30 minutes when a rank only hangs", seconds)


def test_stopped(tmp_path: Path, data: Path, score: Callable[..., None]) -> None:
    first = LiveRun(tmp_path / "first", data, train_iters=2)
    assert first.end() == 0, first.output()
    limit = max(LIMIT, 1.5 * first.seconds())  # a slow machine's start is no hang
    runs = []
    for moment in STOPS:
        changes = {"load": str(first.save)} if "loading" in moment else {}
        fault = f"{moment},SIGSTOP,SIGN"
        runs.append(LiveRun(tmp_path / f"stop{len(runs)}", data, fault, timeout_minutes=limit / 60, **changes))
    held, seconds = 0, []
    for run in runs:
        code, text = run.end(), run.output()
        seconds.append(run.seconds_after_fault() - limit)
        stacks = "the stacks of all threads follow" in text and "most recent call first" in text
        good = code == 6 and seconds[-1] < patience(5) and stacks and not run.orphans()
        assert good, (code, limit, seconds[-1], stacks, run.orphans(), text)
        assert "no sign of life" in text and "hung and had to be killed" in text
        assert limit - 0.1 <= run.silence() < 2 * limit + 10, (limit, run.silence())
        held += good
    score("S22", held, len(STOPS), "a stopped rank is waited for without a word", seconds)

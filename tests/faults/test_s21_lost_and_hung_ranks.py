"""A rank is killed or stops for good, at every kind of moment: all are gone in time, and the run can go on."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from megatron.checkpointing.reader import CheckpointReader, find_checkpoint
from tests.faults.live_run import LiveRun
from tests.helpers.tiny_run import write_tiny_data

LIMIT_MINUTES = 0.3
LIMIT = 60 * LIMIT_MINUTES
BY_THEN = LIMIT + 5
KILLS = ["1,training,3", "0,training,4", "1,saving,4", "0,evaluation,4", "1,agreeing,3"]
STOPS = ["1,training,3", "0,evaluation,4", "1,saving,4", "0,loading,0"]

pytestmark = [pytest.mark.multiprocess, pytest.mark.slow]


def late() -> float:
    """Seconds for a machine with more than two processes waiting for each core: its clock measures the others too."""
    return 8.0 if os.getloadavg()[0] > 2 * (os.cpu_count() or 1) else 0.0


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_data(tmp_path_factory.mktemp("data"))


def test_killed(tmp_path: Path, data: Path, score: Callable[..., None]) -> None:
    held = 0
    for batch in (KILLS[:3], KILLS[3:]):
        runs = [LiveRun(tmp_path / f"kill{KILLS.index(moment)}", data, f"{moment},SIGKILL,SIGN") for moment in batch]
        for run in runs:
            code = run.end()
            step = CheckpointReader(find_checkpoint(run.save)).iteration
            good = code == 6 and run.seconds_after_fault() < BY_THEN + late() and not run.orphans() and step % 2 == 0
            assert good, (code, run.seconds_after_fault(), run.orphans(), run.output())
            held += good
            [exit_] = run.events("exit")
            assert exit_["code"] == 6 and "SIGKILL" in run.output()
    again = LiveRun(tmp_path / "again", data, save=runs[0].save, auto_resume=True, train_iters=step + 2)
    assert again.end() == 0, again.output()
    assert again.events("resume")[-1]["iteration"] >= 2
    score("S21", held, len(KILLS), "peers wait for the default limit of 30 minutes when a rank only hangs")


def test_stopped(tmp_path: Path, data: Path, score: Callable[..., None]) -> None:
    first = LiveRun(tmp_path / "first", data, train_iters=2)
    assert first.end() == 0, first.output()
    runs = []
    for moment in STOPS:
        changes = {"load": str(first.save)} if "loading" in moment else {}
        fault = f"{moment},SIGSTOP,SIGN"
        runs.append(LiveRun(tmp_path / f"stop{len(runs)}", data, fault, timeout_minutes=LIMIT_MINUTES, **changes))
    held = 0
    for run in runs:
        code, text = run.end(), run.output()
        stacks = "the stacks of all threads follow" in text and "most recent call first" in text
        good = code == 6 and run.seconds_after_fault() < BY_THEN + late() and stacks and not run.orphans()
        assert good, (code, run.seconds_after_fault(), stacks, run.orphans(), text)
        assert "no sign of life" in text and "hung and had to be killed" in text
        held += good
    score("S22", held, len(STOPS), "a stopped rank is waited for without a word")

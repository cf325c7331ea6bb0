"""Stop signals to the launcher or a rank at eight moments: saved at a step edge, exit code 75, nobody left behind."""

import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from megatron.checkpointing.reader import CheckpointReader, find_checkpoint
from tests.faults.live_run import LiveRun
from tests.helpers.tiny_run import write_tiny_data

MOMENTS = [
    "0,training,3,launcher:SIGTERM",
    "0,training,3,launcher:SIGINT",
    "1,training,3,launcher:SIGUSR1",
    "1,training,3,SIGTERM",
    "0,training,3,SIGINT",
    "0,saving,2,launcher:SIGTERM",
    "1,evaluation,2,launcher:SIGTERM",
    "0,training,3,launcher:SIGTERM+SIGTERM",
]

pytestmark = [pytest.mark.multiprocess, pytest.mark.slow]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_data(tmp_path_factory.mktemp("data"))


def test_saved_and_gone(tmp_path: Path, data: Path, score: Callable[..., None]) -> None:
    held = 0
    for batch in (MOMENTS[:4], MOMENTS[4:]):
        runs = [
            LiveRun(tmp_path / f"run{MOMENTS.index(moment)}", data, f"{moment},SIGN", async_save=number % 2 == 1)
            for number, moment in enumerate(batch)
        ]
        for run in runs:
            code = run.end()
            assert code == 75, (code, run.output())
            [stop] = run.events("stop") or [{"iteration": None}]
            saved = CheckpointReader(find_checkpoint(run.save))
            good = saved.iteration == stop["iteration"] and not run.orphans()
            assert good, (code, saved.iteration, stop, run.orphans(), run.output())
            assert saved.state["consumed_samples"] == 4 * saved.iteration
            held += good
    score("S23", held, len(MOMENTS), "DeepSpeed's runner dies of SIGTERM and leaves its ranks as orphans")


def test_one_of_two_runs(tmp_path: Path, data: Path, score: Callable[..., None]) -> None:
    """Two runs on this host with the same command but for the folder; one is stopped, the other does not notice."""
    stopped = LiveRun(tmp_path / "stopped", data)
    other = LiveRun(tmp_path / "other", data, log_sample_hashes=True, train_iters=40, checkpoint_factor=40)
    stopped.wait_for_step(3)
    os.kill(stopped.process.pid, signal.SIGTERM)
    assert stopped.end() == 75, stopped.output()
    assert other.end() == 0, other.output()
    assert [event["iteration"] for event in other.events("samples")] == list(range(1, 41))
    score("S26", 1, 1, "DeepSpeed's stop over pdsh is `pkill -f` on a pattern that all its jobs match")

"""A real training run loses one of two hosts, goes on with the other, and ends where an undisturbed one ends."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.faults.resumed_runs import train_one_after_another
from tests.helpers.hosts import fake_programs
from tests.helpers.processes import run_ranks
from tests.helpers.tiny_run import tiny_settings, write_settings, write_tiny_data

ROOT = Path(__file__).resolve().parents[3]
STEPS, LOST_AT, SAVED_BY_THEN = 10, 7, 6
# The program of the ranks: on node-b, at this step, the host goes away for good.
TRAIN = f"""
import os, signal, sys, time
from pathlib import Path
sys.path.insert(0, {str(ROOT)!r})
from megatron.launcher import place
from megatron.launcher.entry import run_main
from train import main

real_at = place.at

def at(what, step=None):
    real_at(what, step)
    if os.environ.get("FAKE_HOST") == "node-b" and (place._step or 0) >= {LOST_AT}:
        Path("refuses-node-b").touch()
        os.kill(os.getppid(), signal.SIGKILL)
        time.sleep(60)

place.at = at
if __name__ == "__main__":
    run_main(main)
"""


@pytest.mark.slow
@pytest.mark.multiprocess
def test_a_run_goes_on_without_a_lost_host(tmp_path: Path) -> None:
    (tmp_path / "hosts").write_text("node-a slots=1\nnode-b slots=1\n")
    (tmp_path / "program").mkdir()
    (tmp_path / "program" / "train.py").write_text(TRAIN)
    settings = tiny_settings(write_tiny_data(tmp_path / "data"), train_iters=STEPS, checkpoint_factor=2)
    restarts = {"max_restarts": 2, "min_hosts": 1, "hostfile": "hosts", "launcher": "ssh"}
    write_settings(tmp_path / "several.yml", {**settings, **restarts, "save": "run"})
    alone = write_settings(tmp_path / "alone.yml", {**settings, "save": str(tmp_path / "undisturbed")})

    environment = {**os.environ, "PATH": fake_programs(tmp_path), "DS_ACCELERATOR": "cpu", "OMP_NUM_THREADS": "1"}
    run = subprocess.run(
        [sys.executable, str(ROOT / "deepy.py"), "program/train.py", "several.yml"],
        cwd=tmp_path,
        env={**environment, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert run.returncode == 0, run.stderr
    assert "(host node-b) failed: host lost" in run.stderr
    assert f"restart 1 of 2 from step {SAVED_BY_THEN}" in run.stderr
    assert "going on with node-a: 1 ranks instead of 2" in run.stderr
    run_ranks(train_one_after_another, 1, str(alone), [[]])
    expected = losses(tmp_path / "undisturbed")
    assert len(expected) == STEPS and losses(tmp_path / "run") == pytest.approx(expected, rel=1e-5)


def losses(save: Path) -> dict[int, float]:
    """Step -> loss; of a step done twice, the later."""
    events = map(json.loads, (save / "events.jsonl").read_text().splitlines())
    return {event["iteration"]: event["loss"] for event in events if event["kind"] == "step"}

"""train.py without deepy.py: alone as one process (python train.py a.yml), and on two ranks of torchrun."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.helpers.tiny_run import tiny_settings, write_settings, write_tiny_data

REPOSITORY = Path(__file__).resolve().parents[1]


def losses(folder: Path, *launcher: str) -> list[float]:
    """Losses of four steps, started by the given words in front of `train.py a.yml`."""
    settings = tiny_settings(
        write_tiny_data(folder / "data"), train_iters=4, save=str(folder / "run"), checkpoint_factor=4
    )
    config = write_settings(folder / "a.yml", settings)
    done = subprocess.run(
        [*launcher, str(REPOSITORY / "train.py"), str(config)],
        cwd=folder,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    events = [json.loads(line) for line in (folder / "run" / "events.jsonl").read_text().splitlines()]
    return [event["loss"] for event in events if event["kind"] == "step"]


@pytest.mark.slow
@pytest.mark.multiprocess
def test_alone_and_under_torchrun_are_the_same_training(tmp_path: Path) -> None:
    (tmp_path / "alone").mkdir()
    (tmp_path / "torchrun").mkdir()
    alone = losses(tmp_path / "alone", sys.executable)
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    assert len(alone) == 4 and alone[-1] < alone[0]
    assert losses(tmp_path / "torchrun", *torchrun) == pytest.approx(alone, rel=1e-5)

"""A run whose output nobody reads any more goes on to its end and saves."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.helpers.tiny_run import tiny_settings, write_settings, write_tiny_data

ROOT = Path(__file__).resolve().parents[3]
PROGRAM = """
import sys
from megatron.launcher.lasting_output import outlive_readers
outlive_readers()
print("first")
sys.stdin.read()
for number in range(3000):
    print(number, "x" * 100)
print("done", file=sys.stderr)
"""


@pytest.mark.parametrize("errors_too", [False, True])
def test_what_nobody_reads_is_dropped(errors_too: bool) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT if errors_too else subprocess.PIPE,
        text=True,
    )
    assert process.stdin and process.stdout
    assert process.stdout.readline() == "first\n"
    process.stdout.close()
    process.stdin.close()
    if not errors_too:
        assert process.stderr and process.stderr.read() == "done\n"
        process.stderr.close()
    assert process.wait(300) == 0


@pytest.mark.slow
@pytest.mark.multiprocess
@pytest.mark.parametrize("stopped", [False, True])
def test_a_run_goes_on_without_its_reader(tmp_path: Path, stopped: bool) -> None:
    """As behind `| tee run.log` when tee is killed: it goes on, and saves when it is told to stop."""
    steps = 100_000 if stopped else 12
    data = write_tiny_data(tmp_path / "data")
    settings = tiny_settings(data, save=str(tmp_path / "run"), train_iters=steps, checkpoint_factor=steps, num_gpus=2)
    command = [sys.executable, "deepy.py", "train.py", str(write_settings(tmp_path / "tiny.yml", settings))]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    assert process.stdout is not None
    shown = ""
    while f"1/{steps} " not in shown:
        line = process.stdout.readline()
        assert line, f"no first step in {shown}"
        shown += line
    process.stdout.close()
    events = tmp_path / "run" / "events.jsonl"
    while process.poll() is None and events.read_text("utf-8").count('"kind": "step"') < 5:
        time.sleep(0.1)
    if stopped:
        process.terminate()
    assert process.wait(600) == (75 if stopped else 0)
    saved = int((tmp_path / "run" / "latest").read_text("utf-8").strip().removeprefix("global_step"))
    assert saved >= 5 if stopped else saved == 12

"""The commands of docs/optimisation.md, run as a reader would, but for fewer steps."""

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from tests.helpers.tiny_run import write_tiny_data

ROOT = Path(__file__).resolve().parents[3]
PAGE = (ROOT / "docs" / "optimisation.md").read_text("utf-8")
# deepy.py with train.py each: Muon, warm-up/stable/decay, its branch, the ramp, muP.
COMMANDS = [line for block in re.findall(r"```bash [^\n]*\n(.*?)```", PAGE, re.S) for line in block.splitlines()]
SHORT = " --set log_interval=1 --set eval_iters=0 --set num_layers=2 --set seq_length=64"


@pytest.mark.slow
@pytest.mark.multiprocess
def test_the_page_from_top_to_bottom(tmp_path: Path) -> None:
    for name in ("deepy.py", "train.py", "configs", "megatron", "sepllm"):
        (tmp_path / name).symlink_to(ROOT / name)
    data = write_tiny_data(tmp_path / "data")
    (tmp_path / "my_data.yml").write_text(f"data_path: {data}\nsplit: 90,5,5\ntokenizer_type: CharLevelTokenizer\n")
    yaml = re.search(r"```yaml\n(.*?)```", PAGE, re.S)
    assert yaml is not None
    (tmp_path / "wsd.yml").write_text(yaml[1])

    muon, stable, branch, ramp, mup = (command + SHORT for command in COMMANDS)
    code, said = run(tmp_path, muon + " --set train_iters=3")
    assert code == 0 and "3/3" in said, said
    code, said = run(
        tmp_path, stable + " --set exit_interval=50 --set train_batch_size=1 --set train_micro_batch_size_per_gpu=1"
    )
    assert code == 75, said
    code, said = run(tmp_path, branch + " --set train_batch_size=1 --set train_micro_batch_size_per_gpu=1")
    assert code == 0 and "Changed since the save: train_iters: 100 -> 60" in said, said
    rates = [step["lr"] for step in steps(tmp_path / "runs" / "decayed")]
    assert rates == pytest.approx([1e-4 + 9e-4 * left / 10 for left in range(9, -1, -1)])
    code, said = run(tmp_path, ramp + " --set train_tokens=4096")
    assert code == 0, said
    assert [step["consumed_samples"] for step in steps(tmp_path / "runs" / "ramp")] == [
        2,
        4,
        6,
        8,
        12,
        16,
        22,
        28,
        36,
        44,
        52,
        60,
        68,
    ]
    code, said = run(tmp_path, mup)
    assert code == 0 and "mup" in said, said


def run(folder: Path, command: str) -> tuple[int, str]:
    words = [sys.executable, *shlex.split(command)[1:]]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(words, cwd=folder, env=environment, capture_output=True, text=True, timeout=600)
    return done.returncode, done.stdout + done.stderr


def steps(save: Path) -> list[dict]:
    events = [json.loads(line) for line in (save / "events.jsonl").read_text().splitlines()]
    return [event for event in events if event["kind"] == "step"]

"""The commands of docs/training.md, run as a reader would: preprocess, train, stop, resume, two processes."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.helpers.tiny_run import WORDS

ROOT = Path(__file__).resolve().parents[3]
PAGE = (ROOT / "docs" / "training.md").read_text("utf-8")
# What the page's commands start, in order: tools/datasets/preprocess_data.py, then deepy.py with train.py four times.
COMMANDS = [line for block in re.findall(r"```bash [^\n]*\n(.*?)```", PAGE, re.S) for line in block.splitlines()]


@pytest.mark.slow
@pytest.mark.multiprocess
def test_the_page_from_top_to_bottom(tmp_path: Path) -> None:
    for name in ("deepy.py", "train.py", "tools", "configs", "megatron", "sepllm"):
        (tmp_path / name).symlink_to(ROOT / name)
    texts = [" ".join(WORDS[number % 7 :] * 9) + "." for number in range(40)]
    (tmp_path / "corpus.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    yaml = re.search(r"```yaml\n(.*?)```", PAGE, re.S)
    assert yaml is not None
    (tmp_path / "my_data.yml").write_text(yaml[1])

    preprocess, first, resume, warm, wider = COMMANDS
    assert run(tmp_path, preprocess)[0] == 0
    code, said = run(tmp_path, first + " --set train_iters=3 --set exit_interval=2 --set log_interval=1")
    assert code == 75 and "load=runs/first" in said, said
    code, said = run(tmp_path, resume + " --set train_iters=3 --set log_interval=1")
    assert code == 0 and "Resumed from" in said and "3/3" in said, said
    code, said = run(tmp_path, warm + " --set train_iters=1")
    assert code == 0 and "148 of 148 tensors loaded, 665,472 of 665,472" in said and "1/1" in said, said
    code, said = run(tmp_path, wider + " --set train_iters=4 --set log_interval=1")
    assert code == 0 and "2 pipeline" in said and "4/4" in said, said


def run(folder: Path, command: str) -> tuple[int, str]:
    words = [sys.executable, *command.split()[1:]]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(words, cwd=folder, env=environment, capture_output=True, text=True, timeout=600)
    return done.returncode, done.stdout + done.stderr

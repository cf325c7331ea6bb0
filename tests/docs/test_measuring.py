"""The commands of docs/measuring.md, run as a reader would; what the page promises is in the log of events."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.helpers.tiny_run import WORDS

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "measuring.md").read_text("utf-8")
# What the page's commands start: tools/datasets/preprocess_data.py twice, then deepy.py with train.py.


@pytest.mark.slow
@pytest.mark.multiprocess
def test_the_page(tmp_path: Path) -> None:
    for name in ("deepy.py", "train.py", "tools", "configs", "megatron", "sepllm"):
        (tmp_path / name).symlink_to(ROOT / name)
    for corpus in ("books", "code"):
        texts = [" ".join(WORDS[number % 7 :] * 9) + "." for number in range(40 if corpus == "books" else 9)]
        (tmp_path / f"{corpus}.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    yaml = re.search(r"```yaml\n(.*?)```", PAGE, re.S)
    block = re.search(r"```bash tests/docs/test_measuring.py\n(.*?)```", PAGE, re.S)
    assert yaml is not None and block is not None
    (tmp_path / "measured.yml").write_text(yaml[1])
    (tmp_path / "my_data.yml").write_text(
        "data_path: data/books_text_document\nsplit: 100,0,0\ntokenizer_type: CharLevelTokenizer\ntrain_batch_size: 8\n"
    )
    shorter = " --set train_iters=4 --set eval_interval=2 --set log_interval=2"
    for command in block[1].splitlines():
        words = [sys.executable, *command.split()[1:], *(shorter.split() if "train.py" in command else [])]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        done = subprocess.run(words, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=600)
        assert done.returncode == 0, done.stderr
    assert re.search(r"^code at step 4: loss \d\.\d{4}, perplexity [\d.]+ \([\d,]+ tokens\)$", done.stdout, re.M)
    assert re.search(r"4/4 .* noise ", done.stdout)
    events = [json.loads(line) for line in (tmp_path / "runs/measured/events.jsonl").read_text().splitlines()]
    held_out = [(event["set"], event["iteration"]) for event in events if event["kind"] == "validation"]
    assert held_out == [("books", 2), ("code", 2), ("books", 4), ("code", 4)]
    assert [event["iteration"] for event in events if event["kind"] == "norms"] == [2, 4]
    assert (tmp_path / "runs/measured/profile/steps-2-3-rank-00000.json.gz").is_file()

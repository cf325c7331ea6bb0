"""The training examples are what their original's name says, quote figures of their sources, and train.

Commands tested: python deepy.py train.py training_examples/NAME/config.yml data.yml --set ..., all by loading what they
name, one of them by running it.
"""

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from megatron.launcher.command_line import parse_command
from megatron.neox_arguments.load import load_arguments
from megatron.neox_arguments.purpose import check_for_training
from tests.helpers.shared import shared_folder
from tests.helpers.tiny_run import write_tiny_data

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "training_examples"
README = (FOLDER / "README.md").read_text(encoding="utf-8")
EXAMPLES = sorted(path.parent for path in FOLDER.glob("*/config.yml"))
# folder -> (question, share of pairs kept, name in the original)
TABLE = {
    folder: (question, float(kept), original)
    for folder, question, kept, original in re.findall(
        r"^\| \[([\w.-]+)\]\(\1/README\.md\) \| (.+?) \| ([\d.]+) % \| `?(.+?)`? \|$", README, re.M
    )
}
# Share of pairs kept in 40 books, by window: the reference measurement of the README.
KEPT = {64: 21.6, 128: 26.5, 2048: 100.0}
STREAMING_KEPT = 6.4


def command(folder: Path) -> list[str]:
    """The words of the one command in an example's README."""
    (block,) = re.findall(r"```bash [^\n]*\n(.*?)```", (folder / "README.md").read_text(encoding="utf-8"), re.S)
    return shlex.split(block)


def test_the_table_names_every_example_of_the_original_once():
    assert set(TABLE) == {folder.name for folder in EXAMPLES}
    originals = [original for _, _, original in TABLE.values() if " " not in original]
    assert len(originals) == len(set(originals)) == 21


@pytest.mark.parametrize("folder", EXAMPLES, ids=lambda folder: folder.name)
def test_an_example_is_what_its_original_is_called(folder):
    question, kept, original = TABLE[folder.name]
    text = (folder / "README.md").read_text(encoding="utf-8")
    assert text.startswith(f"# {question}\n") and question.endswith("?") and "## Figures to expect" in text

    words = command(folder)
    assert words[:2] == ["python", "deepy.py"]
    asked = parse_command(words[2:])
    assert asked.files[0] == f"training_examples/{folder.name}/config.yml"
    assert asked.overrides == (f"save=runs/{folder.name}",)
    args = load_arguments([ROOT / file for file in asked.files], asked.overrides, world_size=8)
    check_for_training(args)

    derived = args.derived
    assert (args.num_layers, args.num_attention_heads) == ((24, 32) if "1.4b" in original else (12, 12))
    assert (derived.train_batch_size, args.train_iters, args.seq_length) == (1024, 143000, 2048)
    if "announced" in original:
        assert (derived.attention_mode, derived.softmax) == ("full", "sa")
    elif "vanilla" in original:
        assert (derived.attention_mode, derived.softmax) == ("full", "softmax")
    else:
        nearest, kind = re.search(r"n(\d+)(HT|H|)", original + "n64").groups()
        dense = {"": [], "H": [0], "HT": [0, args.num_layers - 1]}[kind]
        assert list(derived.windows) == [2048 if i in dense else int(nearest) for i in range(args.num_layers)]
        assert derived.attention_mode == ("streaming" if "streaming" in original else "sepllm")
        assert (derived.attention_path == "masked") == ("kernel" not in original and "streaming" not in original)
        assert derived.init_tokens == 3
    assert args.USE_BiPE == ("BiPE" in original) and (args.pos_emb == "alibi") == ("alibi" in original)

    by_layer = [KEPT[w] if derived.attention_mode != "streaming" else STREAMING_KEPT for w in derived.windows]
    assert kept == pytest.approx(sum(by_layer) / len(by_layer), abs=0.05)


def test_every_figure_stands_in_its_source():
    source = (shared_folder("reference") / "NUMBERS.md").read_text(encoding="utf-8")
    known = set(re.findall(r"\d*\.\d+|\d+", source))
    count = 0
    for folder in EXAMPLES:
        rows = re.findall(r"^\| (?!model|---)[^|]+\|(.+)\|$", (folder / "README.md").read_text(encoding="utf-8"), re.M)
        figures = [figure for row in rows for figure in re.findall(r"\d*\.\d+|\d+", row)]
        assert [figure for figure in figures if figure not in known] == [], folder.name
        count += len(figures)
    assert count > 200


@pytest.mark.slow
@pytest.mark.multiprocess
def test_the_command_for_a_laptop_trains(tmp_path: Path) -> None:
    (line,) = re.findall(r"```bash [^\n]*\n(python deepy\.py.*?)\n```", README)
    words = shlex.split(line)
    for name in ("deepy.py", "train.py", "configs", "training_examples", "megatron", "sepllm"):
        (tmp_path / name).symlink_to(ROOT / name)
    data = write_tiny_data(tmp_path / "data")
    (tmp_path / "my_data.yml").write_text(
        f"data_path: {data}\nsplit: 90,5,5\ntokenizer_type: CharLevelTokenizer\nsave: runs/first\n"
    )
    fewer = ["--set", "train_iters=5", "--set", "log_interval=1", "--set", "eval_iters=0"]
    done = subprocess.run(
        [sys.executable, *words[1:], *fewer],
        cwd=tmp_path,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    events = [json.loads(line) for line in (tmp_path / "runs/small/events.jsonl").read_text().splitlines()]
    steps = [event for event in events if event["kind"] == "step"]
    assert len(steps) == 5 and steps[-1]["loss"] < steps[0]["loss"]
    assert [layer for layer, share in enumerate(steps[0]["kept_by_layer"]) if share == 1] == [0, 11]

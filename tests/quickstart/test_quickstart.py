"""The whole quickstart, with few steps, in a folder of its own: what `make quickstart` runs (see test_makefile.py).

A longer run differs in numbers only: make quickstart QUICKSTART="--train-iters 2000".
"""

import json
import os
import re
import shlex
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

from training_examples.quickstart.__main__ import TRAIN_ITERS, steps

REPOSITORY = Path(__file__).resolve().parents[2]
NEEDED = ["sepllm", "megatron", "tools", "training_examples", "deepy.py", "train.py", "eval.py", "generate.py"]


@dataclass(frozen=True)
class Run:
    """One call of the quickstart: its folder, exit code, output and duration."""

    out: Path
    code: int
    shown: str
    seconds: float


def call(folder: Path, *arguments: str) -> Run:
    start = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-m", "training_examples.quickstart", *arguments],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(folder), "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=600,
    )
    return Run(folder / "quickstart", done.returncode, done.stdout, time.monotonic() - start)


@pytest.fixture(scope="module")
def first_run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder = tmp_path_factory.mktemp("tree")
    for name in NEEDED:
        (folder / name).symlink_to(REPOSITORY / name)
    return call(folder, "--train-iters", "20", "--questions", "8")


@pytest.mark.slow
@pytest.mark.multiprocess
def test_every_step_runs_and_leaves_what_it_promises(first_run: Run) -> None:
    assert first_run.code == 0, first_run.shown[-4000:]
    plan = steps(20, 8)
    for number, step in enumerate(plan, start=1):
        assert f"[{number}/{len(plan)}] {step.title}" in first_run.shown
        assert f"$ {shlex.join(shlex.split(step.command))}" in first_run.shown or step.command in first_run.shown
    out = first_run.out
    config = json.loads((out / "model" / "config.json").read_text())
    assert config["auto_map"]["AutoModelForCausalLM"].endswith("ForCausalLM")
    assert (out / "loss.png").read_bytes().startswith(b"\x89PNG")
    assert len((out / "samples.jsonl").read_text().splitlines()) == 4


@pytest.mark.slow
@pytest.mark.multiprocess
def test_the_run_stopped_half_way_resumed_and_learned(first_run: Run) -> None:
    events = [json.loads(line) for line in (first_run.out / "checkpoints" / "events.jsonl").read_text().splitlines()]
    assert [(event["kind"], event["iteration"]) for event in events if event["kind"] in ("stop", "resume", "end")] == [
        ("stop", 10),
        ("resume", 10),
        ("end", 20),
    ]
    reported = [event["iteration"] for event in events if event["kind"] == "step"]
    assert reported == sorted(set(reported)) and reported[-1] == 20, "no step twice, none lost"
    kept = {event["kept_ratio"] for event in events if event["kind"] == "step"}
    assert all(0.2 < ratio < 0.6 for ratio in kept), "separator attention was on"
    assert all(len(event["kept_by_layer"]) == 2 for event in events if event["kind"] == "step"), "from both stages"


@pytest.mark.slow
@pytest.mark.multiprocess
def test_the_closing_table_compares_with_the_untrained_model(first_run: Run) -> None:
    losses = re.search(r"loss, nats per token +([\d.]+) +([\d.]+)", first_run.shown)
    perplexities = re.search(r"perplexity +([\d.]+) +([\d.]+)", first_run.shown)
    assert losses and perplexities, first_run.shown[-3000:]
    untrained, trained = map(float, losses.groups())
    assert 8.0 < untrained < 8.8, "an untrained model of 4096 tokens guesses: log(4096) is 8.32"
    assert trained < untrained - 1.0
    for part in ("tokens/s", "% of the causal pairs", "right one of four", "quickstart/loss.png"):
        assert part in first_run.shown


@pytest.mark.slow
@pytest.mark.multiprocess
def test_running_again_is_quick_and_harmless(first_run: Run) -> None:
    before = {path: path.stat().st_mtime_ns for path in first_run.out.rglob("*") if path.is_file()}
    again = call(first_run.out.parent, "--train-iters", "20", "--questions", "8")
    assert again.code == 0 and again.shown.count("skipped") == len(steps(20, 8))
    assert "What was made" in again.shown, "the closing table is shown again"
    assert again.seconds < first_run.seconds / 2
    assert before == {path: path.stat().st_mtime_ns for path in first_run.out.rglob("*") if path.is_file()}


def test_commands_are_those_of_the_settings_and_can_be_typed() -> None:
    for step in steps(TRAIN_ITERS, 64):
        words = shlex.split(step.command)
        script = next((word for word in words if word.endswith(".py")), None)
        assert script is None or (REPOSITORY / script).is_file()
        assert "--set train_iters" not in step.command, "the settings file itself has the default length"


@pytest.mark.parametrize("wrong", ["3", "2", "0"])
def test_a_length_that_cannot_be_halved_is_refused(wrong: str) -> None:
    done = call(REPOSITORY, "--train-iters", wrong)
    assert done.code == 2 and f"--train-iters {wrong}: give an even number" in done.shown

"""The files under configs/ train: every attention mode for five steps in small, some of them by real command lines."""

import json
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.helpers.processes import run_ranks
from tests.helpers.tiny_run import write_tiny_data

ROOT = Path(__file__).resolve().parents[3]
CONFIGS = ROOT / "configs"

# 160 tokens: longer than the windows of 64, shorter than a dense layer's 2048.
SIZE = [
    "hidden_size=32",
    "num_attention_heads=4",
    "seq_length=160",
    "max_position_embeddings=160",
    "train_batch_size=2",
    "train_micro_batch_size_per_gpu=2",
    "train_iters=5",
    "lr_decay_iters=5",
    "optimizer.params.lr=1e-2",
    "eval_iters=0",
    "log_interval=1",
    "extra_save_iters=null",
    "tokenizer_type=CharLevelTokenizer",
    "make_vocab_size_divisible_by=64",
]
COMPOSITIONS = {
    "sepllm": "models/160m attention/sepllm-n64",
    "masked": "models/160m attention/sepllm-n64 paths/masked",
    "h": "models/160m attention/sepllm-n64-h",
    "ht": "models/160m attention/sepllm-n64-ht",
    "hmt": "models/160m attention/sepllm-n64-hmt",
    "rotary BiPE": "models/160m attention/sepllm-n64-ht positions/bipe",
    "alibi BiPE": "models/160m-alibi attention/sepllm-n64-ht positions/bipe",
    "full": "models/160m attention/full",
    "streaming": "models/160m attention/streaming-n64",
    "fixllm": "models/160m attention/fixllm-n64-d5",
    "sa": "models/160m attention/self-adjusting",
    "sa without denominator": "models/160m attention/self-adjusting-no-denominator",
    "1.4b": "models/1.4b-32heads attention/sepllm-n64-ht",
    "llama": "local-cpu-llama attention/sepllm-n64-h",
}


def train_all(folder: str) -> dict[str, list[dict]]:
    """The step events of each composition, all trained by this one process. Runs in a process of its own."""
    from megatron.neox_arguments.load import load_arguments
    from megatron.training.pretrain import pretrain

    data = write_tiny_data(Path(folder, "data"))
    events = {}
    for name, files in COMPOSITIONS.items():
        save = Path(folder, name)
        own = [f"data_path={data}", "split=1,0,0", f"save={save}", "precision=fp32"]
        paths = [CONFIGS / f"{file}.yml" for file in files.split()]
        pretrain(load_arguments(paths, [*SIZE, *own], world_size=1))
        events[name] = steps_of(save)
    return events


def steps_of(save: Path) -> list[dict]:
    events = [json.loads(line) for line in (save / "events.jsonl").read_text().splitlines()]
    return [event for event in events if event["kind"] == "step"]


@pytest.mark.slow
def test_every_mode_trains_five_steps(tmp_path: Path) -> None:
    (events,) = run_ranks(train_all, 1, str(tmp_path))
    losses = {name: [event["loss"] for event in steps] for name, steps in events.items()}
    for name, curve in losses.items():
        assert len(curve) == 5 and all(map(math.isfinite, curve)), name
        assert curve[4] < curve[0] - 1, (name, curve)
    assert losses["masked"] == pytest.approx(losses["sepllm"], rel=1e-5)

    kept = {name: steps[0]["kept_ratio"] for name, steps in events.items()}
    assert (
        kept["streaming"] < kept["fixllm"] < kept["sepllm"] < kept["h"] < kept["ht"] < kept["hmt"] < kept["full"] == 1
    )
    assert kept["sa"] == kept["sa without denominator"] == 1
    assert kept["rotary BiPE"] == kept["alibi BiPE"] == kept["ht"]
    by_layer = events["hmt"][0]["kept_by_layer"]
    assert [layer for layer, share in enumerate(by_layer) if share == 1] == [0, 5, 11]
    curves = {tuple(round(loss, 6) for loss in curve) for name, curve in losses.items() if name != "masked"}
    assert len(curves) == len(COMPOSITIONS) - 1, "two modes trained alike"


@pytest.mark.slow
@pytest.mark.multiprocess
@pytest.mark.parametrize(
    "files",
    [
        ["configs/models/160m.yml", "configs/attention/sepllm-n64-ht.yml", "configs/paths/masked.yml"],
        ["tests/data/original_style/sepllm-n64ht.yml"],
        ["tests/data/original_style/segllm-n64.yml"],
    ],
    ids=["composed", "sepllm", "segllm"],
)
def test_by_command_line(tmp_path: Path, files: list[str]) -> None:
    data = write_tiny_data(tmp_path / "data")
    as_the_original = len(files) == 1
    three = [f"{kind}_data_paths=[{data}]" for kind in ("train", "valid", "test")]
    paths = [*(three if as_the_original else [f"data_path={data}"]), f"save={tmp_path / 'run'}"]
    settings = [*SIZE, *paths, "gradient_accumulation_steps=1"]
    code, said = deepy(files, settings)
    assert code == 0, said
    if as_the_original:  # they ask for fp16, which a CPU computes slowly, and says so
        assert "fp16 on a CPU" in said
    curve = [event["loss"] for event in steps_of(tmp_path / "run")]
    assert len(curve) == 5 and curve[4] < curve[0] - 1


def deepy(files: list[str], settings: list[str]) -> tuple[int, str]:
    """python deepy.py train.py FILES --set ...: the exit code and all that was said."""
    done = subprocess.run(
        [sys.executable, "deepy.py", "train.py", *files, *(word for pair in settings for word in ("--set", pair))],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=600,
    )
    return done.returncode, done.stdout + done.stderr

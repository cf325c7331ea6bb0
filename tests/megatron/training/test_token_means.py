"""Losses are means over all tokens that count, whatever the layout: in training, and on every held-out set."""

import json
import os
from pathlib import Path
from typing import Any

import pytest

from tests.helpers.processes import run_ranks
from tests.helpers.tiny_run import write_settings
from tests.megatron.training.masked_run import STEPS, PlainRun, masked_settings, plain_run

# name -> (ranks, overrides)
LAYOUTS: dict[str, tuple[int, list[str]]] = {
    "micro1": (1, ["train_micro_batch_size_per_gpu=1"]),
    "dp2_micro4": (2, ["train_micro_batch_size_per_gpu=4"]),
    "cp2_micro2": (2, ["train_micro_batch_size_per_gpu=2", "context_parallel_size=2"]),
    "cp2_dp2_micro1": (4, ["train_micro_batch_size_per_gpu=1", "context_parallel_size=2"]),
    "pp2_tp2_micro2": (4, ["train_micro_batch_size_per_gpu=2", "pipe_parallel_size=2", "model_parallel_size=2"]),
}


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("masked")
    return write_settings(folder / "config.yml", masked_settings(folder))


@pytest.fixture(scope="module")
def plain(config: Path) -> PlainRun:
    return plain_run(str(config))


@pytest.mark.multiprocess
@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_equals_the_definition(config: Path, plain: PlainRun, layout: str) -> None:
    ranks, overrides = LAYOUTS[layout]
    save = config.parent / layout
    run_ranks(train_once, ranks, str(config), [*overrides, f"log_dir={save}"])
    events = [json.loads(line) for line in (save / "events.jsonl").read_text().splitlines()]
    assert [e["loss"] for e in events if e["kind"] == "step"] == pytest.approx(plain.losses, rel=2e-5)
    held_out = [e for e in events if e["kind"] in ("validation", "test")]
    assert [(e["set"], e["iteration"]) for e in held_out] == [
        ("books", 2), ("code", 2), ("books", STEPS), ("code", STEPS), ("test", STEPS),
    ]  # fmt: skip
    for event in held_out[2:]:
        loss, tokens, samples = plain.held_out[event["set"]]
        assert (event["tokens"], event["samples"]) == (tokens, samples)
        assert event["loss"] == pytest.approx(loss, rel=2e-5)


@pytest.mark.multiprocess
def test_means_of_micro_batches_are_another_number(config: Path, plain: PlainRun) -> None:
    """GPT-NeoX's average on request; the comparison above would pass if masks did not matter."""
    save = config.parent / "micro_batches"
    overrides = ["loss_average=micro_batches", "train_micro_batch_size_per_gpu=1", "train_iters=1"]
    run_ranks(train_once, 1, str(config), [*overrides, f"log_dir={save}"])
    events = [json.loads(line) for line in (save / "events.jsonl").read_text().splitlines()]
    [first] = [e["loss"] for e in events if e["kind"] == "step"]
    assert first == pytest.approx(plain.row_means[0], rel=2e-5)
    assert abs(first - plain.losses[0]) > 1e-2


def train_once(config: str, overrides: list[str]) -> Any:
    """Runs on every rank."""
    from megatron.neox_arguments.load import load_arguments
    from megatron.training.build import build_run, start_parallel
    from megatron.training.loop import train

    args = load_arguments([config], overrides, world_size=int(os.environ["WORLD_SIZE"]))
    train(build_run(args, start_parallel(args)))

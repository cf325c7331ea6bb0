"""Batch ramp, length in tokens or epochs, and every schedule, in real runs: any layout, stopped or not, is one run."""

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.helpers.processes import run_ranks
from tests.helpers.tiny_run import tiny_settings, write_settings, write_tiny_data

STYLES = ["constant", "linear", "cosine", "exponential", "inverse_sqrt", "wsd"]
# 2 sequences a step for 8 samples, then 4, then 6, and 8 from sample 24 on: 4 + 2 + 2 steps, then 3 of 8 to pass 48.
RAMP = {"train_batch_size": 8, "rampup_batch_size": [2, 2, 24], "train_tokens": 64 * 48 - 5}
SIZES = [2, 2, 2, 2, 4, 4, 6, 6, 8, 8, 8]
RUNS: dict[str, list[str]] = {
    "whole": [],
    "stopped": ["exit_interval=6"],
    "epochs": ["train_tokens=null", "rampup_batch_size=null", "train_epochs=0.25"],
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("length")
    data = write_tiny_data(folder / "data")
    small = {"num_layers": 2, "prefill_loc_win_size_list": [64, 8], "train_iters": None, "eval_iters": 0}
    write_settings(
        folder / "run.yml", tiny_settings(data, checkpoint_factor=1000, log_sample_hashes=True, **small, **RAMP)
    )
    one = [[*overrides, f"save={folder}/{name}"] for name, overrides in RUNS.items()]
    again = [[f"load={folder}/stopped", f"save={folder}/stopped"]]
    fixed = ["train_tokens=null", "rampup_batch_size=null", "train_batch_size=2", "train_iters=9"]
    for style in STYLES:
        options = [*fixed, f"lr_decay_style={style}", f"save={folder}/{style}", "extra_save_iters=[5]"]
        again += [options, [*options, f"save={folder}/{style}-resumed", f"load={folder}/{style}", "iteration=5"]]
    wsd = [*fixed, "lr_decay_style=wsd", f"load={folder}/wsd", "iteration=5"]
    branch = [*wsd, "train_iters=7", "lr_wsd_decay_iters=2", f"save={folder}/branch"]
    run_ranks(train_all, 1, str(folder), [*one, *again, branch])
    return folder


@pytest.mark.multiprocess
def test_the_ramp_takes_every_sample_once_and_in_order(folder: Path) -> None:
    from megatron.data.from_args import datasets_from_args
    from megatron.data.ledger import as_hex, sample_hashes
    from megatron.neox_arguments.load import load_arguments

    source = datasets_from_args(load_arguments([folder / "run.yml"], world_size=1), 512).train.source
    ledger = of_kind(folder / "whole", "samples")
    assert [entry["samples"] for entry in ledger] == SIZES
    borders = np.cumsum([0, *SIZES])
    for entry, first, last in zip(ledger, borders, borders[1:], strict=False):
        ids = np.stack(source.locate(np.arange(first, last)), axis=1)
        assert entry["hash"] == as_hex(int(sample_hashes(ids).sum(dtype=np.uint64)))


@pytest.mark.multiprocess
def test_stopped_in_the_ramp_and_resumed(folder: Path) -> None:
    assert steps(folder / "stopped") == steps(folder / "whole")
    assert of_kind(folder / "stopped", "samples") == of_kind(folder / "whole", "samples")


@pytest.mark.multiprocess
@pytest.mark.parametrize("layout", ["pipe_parallel_size=1", "pipe_parallel_size=2"])
def test_the_ramp_in_two_processes(folder: Path, layout: str) -> None:
    save = folder / layout
    run_ranks(train_all, 2, str(folder), [[layout, f"save={save}"]])
    ours, theirs = steps(save), steps(folder / "whole")
    for one, other in zip(ours, theirs, strict=True):
        assert one["loss"] == pytest.approx(other["loss"], rel=1e-5)
        assert (one["lr"], one["consumed_samples"]) == (other["lr"], other["consumed_samples"])
    hashes = [[entry["hash"] for entry in of_kind(where, "samples")] for where in (save, folder / "whole")]
    assert hashes[0] == hashes[1]


@pytest.mark.multiprocess
def test_the_learning_rate_counts_tokens_where_the_length_does(folder: Path) -> None:
    """Warm-up is a fifth of the 48 samples that hold train_tokens; at the end stands the floor."""
    seen = steps(folder / "whole")
    assert seen[0]["lr"] == pytest.approx(0.005 * 2 / 9.6)
    assert seen[4]["lr"] == pytest.approx(0.0005 + 0.0045 * (1 + np.cos(np.pi * (12 - 9.6) / 38.4)) / 2)
    assert (seen[-1]["lr"], seen[-1]["consumed_samples"]) == (0.0005, 52)


@pytest.mark.multiprocess
def test_epochs_end_with_the_step_that_reaches_them(folder: Path) -> None:
    from megatron.data.from_args import datasets_from_args
    from megatron.neox_arguments.load import load_arguments

    samples = datasets_from_args(load_arguments([folder / "run.yml"], world_size=1), 512).train.num_samples
    seen = steps(folder / "epochs")
    assert seen[-1]["iteration"] == seen[-1]["train_iters"] == -(-samples // 32)
    assert seen[-1]["consumed_samples"] == 8 * -(-samples // 32)


@pytest.mark.multiprocess
@pytest.mark.parametrize("style", STYLES)
def test_each_schedule_goes_on_after_a_resume(folder: Path, style: str) -> None:
    from megatron.neox_arguments.load import load_arguments
    from megatron.optim.schedule import schedule_from_args

    overrides = ["train_tokens=null", "rampup_batch_size=null", "train_iters=9", f"lr_decay_style={style}"]
    schedule = schedule_from_args(load_arguments([folder / "run.yml"], overrides, world_size=1))
    whole = steps(folder / style)
    assert [step["lr"] for step in whole] == [schedule.lr(update) for update in range(1, 10)]
    assert steps(folder / f"{style}-resumed") == whole[5:]


@pytest.mark.multiprocess
def test_a_decay_branches_from_a_checkpoint(folder: Path) -> None:
    """From step 5 of a run of 9, down to the floor in 2 steps."""
    stable, branch = steps(folder / "wsd"), steps(folder / "branch")
    assert stable[4]["lr"] == stable[5]["lr"] == 0.005
    assert [step["lr"] for step in branch] == pytest.approx([(0.005 + 0.0005) / 2, 0.0005])
    assert branch[0]["loss"] == stable[5]["loss"]  # the same weights and data; only the rate differs


def train_all(folder: str, runs: list[list[str]]) -> None:
    """Runs on every rank: one run after another, stops included."""
    from megatron.errors import StopRequested
    from megatron.neox_arguments.load import load_arguments
    from megatron.training.build import build_run, start_parallel
    from megatron.training.loop import train
    from megatron.training.resume import load_run

    parallel = None
    for overrides in runs:
        args = load_arguments([f"{folder}/run.yml"], overrides, world_size=int(os.environ["WORLD_SIZE"]))
        parallel = parallel or start_parallel(args)
        run = build_run(args, parallel)
        load_run(run)
        try:
            train(run)
        except StopRequested:
            continue


def steps(save: Path) -> list[dict[str, Any]]:
    """What each step was, without what depends on the clock."""
    kept = ("iteration", "train_iters", "loss", "lr", "consumed_samples", "grad_norm")
    return [{key: step[key] for key in kept} for step in of_kind(save, "step")]


def of_kind(save: Path, kind: str) -> list[dict[str, Any]]:
    events = [json.loads(line) for line in (save / "events.jsonl").read_text().splitlines()]
    return [
        {key: value for key, value in event.items() if key not in ("time", "at", "timestamp")}
        for event in events
        if event["kind"] == kind
    ]

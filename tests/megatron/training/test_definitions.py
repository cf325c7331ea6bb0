"""Losses, held-out losses, norms of weights and the noise scale are those of the definition, whatever the layout."""

import json
import math
import os
from pathlib import Path
from typing import Any

import pytest

from tests.helpers.processes import run_ranks
from tests.helpers.tiny_run import write_settings
from tests.megatron.training.masked_run import STEPS, PlainRun, masked_settings, plain_run

_NO_NOISE = "log_gradient_noise_scale=false"
# name -> ranks, micro-batch, steps per report, overrides
LAYOUTS: dict[str, tuple[int, int, int, list[str]]] = {
    "alone": (1, 1, 1, []),
    "dp2": (2, 4, 1, []),
    "cp2": (2, 2, 1, ["context_parallel_size=2", _NO_NOISE]),
    "cp2_dp2": (4, 1, 2, ["context_parallel_size=2", _NO_NOISE]),
    "zero2": (2, 2, 1, ["zero_optimization={stage: 2}"]),
    "zero3": (2, 1, 2, ["zero_optimization={stage: 3}"]),
    "tp2_sequence": (2, 1, 1, ["model_parallel_size=2", "sequence_parallel=true"]),
    "pp2_tp2": (4, 2, 2, ["pipe_parallel_size=2", "model_parallel_size=2"]),
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
    ranks, micro, interval, overrides = LAYOUTS[layout]
    save = config.parent / layout
    sizes = [f"train_micro_batch_size_per_gpu={micro}", f"log_interval={interval}"]
    run_ranks(train_once, ranks, str(config), [*overrides, *sizes, f"log_dir={save}"])
    events = [json.loads(line) for line in (save / "events.jsonl").read_text().splitlines()]
    reports = [range(start, start + interval) for start in range(0, STEPS, interval)]

    steps = [e for e in events if e["kind"] == "step"]
    losses = [sum(plain.losses[step] for step in report) / interval for report in reports]
    assert [e["loss"] for e in steps] == pytest.approx(losses, rel=2e-5)
    for event, report in zip(steps, reports, strict=True):
        noise = sum(plain.noise[step][micro].noise for step in report)
        gradient = sum(plain.noise[step][micro].gradient for step in report)
        resolved = gradient > 0 and _NO_NOISE not in overrides
        assert event["noise_scale"] == (pytest.approx(noise / gradient, rel=1e-3) if resolved else None)

    norms = [e for e in events if e["kind"] == "norms"]
    for event, report in zip(norms, reports, strict=True):
        assert event["iteration"] == report[-1] + 1
        for group, expected in plain.norms[report[-1]].items():
            if group == "pct_grad_zeros":  # a key bias has no gradient but rounding, which may be 0 by chance
                for name in [name for name in expected if name.endswith("query_key_value.bias")]:
                    event[group][name] = expected[name]
            assert event[group] == pytest.approx(expected, rel=2e-4, abs=1e-7), group

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
    overrides = ["loss_average=micro_batches", "train_micro_batch_size_per_gpu=1", "train_iters=1", "eval_iters=0"]
    run_ranks(train_once, 1, str(config), [*overrides, f"log_dir={save}"])
    events = [json.loads(line) for line in (save / "events.jsonl").read_text().splitlines()]
    [first] = [e["loss"] for e in events if e["kind"] == "step"]
    assert first == pytest.approx(plain.row_means[0], rel=2e-5)
    assert abs(first - plain.losses[0]) > 1e-2
    assert not [e for e in events if e["kind"] in ("validation", "test")]


@pytest.mark.multiprocess
def test_norms_of_weights_make_up_the_whole_norm_in_bf16_with_a_tied_table(config: Path) -> None:
    """Another optimizer of DeepSpeed's, and a weight that two stages hold: none is missing, none counted twice."""
    save = config.parent / "bf16"
    overrides = ["precision=bfloat16", "no_weight_tying=false", "pipe_parallel_size=2", "train_iters=2", "eval_iters=0"]
    overrides += ["log_gradient_noise_scale=false", "train_micro_batch_size_per_gpu=4"]
    run_ranks(train_once, 2, str(config), [*overrides, f"log_dir={save}"])
    events = [json.loads(line) for line in (save / "events.jsonl").read_text().splitlines()]
    steps, norms = ([e for e in events if e["kind"] == kind] for kind in ("step", "norms"))
    assert len(norms) == 2
    for step, found in zip(steps, norms, strict=True):
        whole = math.hypot(*found["gradient_norms"].values())
        assert whole == pytest.approx(step["grad_norm"], rel=1e-4)
        assert set(found["parameter_norms"]) == set(found["gradient_norms"])


def train_once(config: str, overrides: list[str]) -> Any:
    """Runs on every rank."""
    from megatron.neox_arguments.load import load_arguments
    from megatron.training.build import build_run, start_parallel
    from megatron.training.loop import train

    args = load_arguments([config], overrides, world_size=int(os.environ["WORLD_SIZE"]))
    train(build_run(args, start_parallel(args)))

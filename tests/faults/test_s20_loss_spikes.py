"""A loss that jumps is flagged at its step; ranges of samples can be left out, by hand or by going back."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from megatron.training.numbers import LossSpikes
from tests.helpers.processes import run_ranks
from tests.helpers.tiny_run import tiny_settings, write_settings, write_tiny_data

SPIKE_AT = 24


def test_a_spike_is_flagged_in_its_step(score: Callable[..., None]) -> None:
    spikes = LossSpikes(deviations=6.0)
    losses = [3.0 + 0.02 * ((7 * step) % 5) - 0.01 * step for step in range(60)]
    assert not [loss for loss in losses if spikes.describe(loss)]
    said = spikes.describe(4.5)
    assert said is not None and "4.5" in said
    assert spikes.describe(losses[-1]) is None
    assert LossSpikes(None).describe(1e9) is None
    score("S20", 1, 1, "the run goes on, and so does the damage")


@pytest.mark.multiprocess
def test_ranges_are_left_out(tmp_path: Path, score: Callable[..., None]) -> None:
    data = write_tiny_data(tmp_path / "data")
    settings = tiny_settings(data, train_iters=30, checkpoint_factor=10, log_sample_hashes=True)
    config = write_settings(tmp_path / "config.yml", settings)
    [seen] = run_ranks(spiky_runs, 1, str(config), str(tmp_path))
    plain, skipping, back = (ledger(tmp_path / name) for name in ("plain", "skip", "back"))
    # Samples 8 to 20 are those of steps 3, 4 and 5.
    assert skipping == [*plain[:2], *plain[5:], *skipping[27:]]
    score("S20", 1, 1, "")
    events = [json.loads(line) for line in (tmp_path / "back" / "events.jsonl").read_text().splitlines()]
    [spike] = [event for event in events if event["kind"] == "spike"]
    [rollback] = [event for event in events if event["kind"] == "rollback"]
    assert spike["iteration"] == SPIKE_AT and spike["samples"] == [4 * (SPIKE_AT - 1), 4 * SPIKE_AT]
    assert rollback["iteration"] == 20 and rollback["left_behind"] == [80, 4 * SPIKE_AT]
    # 24 steps, then back: steps 21 to 30 take the samples after those of step 24.
    assert back[:24] == plain[:24] and back[24:30] == plain[24:30]
    assert seen["weights_of_20"] and seen["iteration"] == 30 and seen["left_behind"] == [[80, 96]]
    score("S20", 1, 1, "")


def ledger(save: Path) -> list[str]:
    events = [json.loads(line) for line in (save / "events.jsonl").read_text().splitlines()]
    return [event["hash"] for event in events if event["kind"] == "samples"]


def spiky_runs(config: str, folder: str) -> dict[str, Any]:
    """In one process: a plain run, one that leaves samples out, one whose loss jumps and that goes back."""
    import torch

    from megatron.checkpointing.reader import CheckpointReader
    from megatron.neox_arguments.load import load_arguments
    from megatron.training import loop
    from megatron.training.build import build_run, start_parallel

    def make(name: str, *overrides: str) -> Any:
        args = load_arguments([config], [f"save={folder}/{name}", *overrides], world_size=1)
        return build_run(args, start_parallel(args))

    loop.train(make("plain"))
    loop.train(make("skip", "skip_samples=[[8, 20]]"))
    run = make("back", "loss_spike_deviations=8", "loss_spike_action=rollback")
    real_step, spiked, seen = loop.train_step, [], {}

    def step(run: Any, *rest: Any) -> Any:
        if spiked and "weights_of_20" not in seen:
            reader = CheckpointReader(f"{folder}/back/global_step20")
            seen["weights_of_20"] = run.state.iteration == 20 and all(
                torch.equal(parameter, reader.weight(parameter.shard.name))
                for parameter in run.engine.module.parameters()
            )
        result = real_step(run, *rest)
        if run.state.iteration == SPIKE_AT and not spiked:
            spiked.append(True)
            return loop.Step(result.loss + 100.0, result.updated)
        return result

    loop.train_step = step
    loop.train(run)
    return {**seen, "iteration": run.state.iteration, "left_behind": [list(left) for left in run.state.left_behind]}

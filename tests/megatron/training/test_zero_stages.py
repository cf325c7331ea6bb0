"""ZeRO-2 and ZeRO-3 without the pipeline engine: checkpoints go from any stage to any other, also on resume."""

import json
import shutil
from pathlib import Path

import pytest
import torch

from megatron.checkpointing.reader import CheckpointReader, find_checkpoint
from tests.helpers.processes import run_ranks
from tests.helpers.tiny_run import tiny_settings, write_settings, write_tiny_data
from tests.megatron.training.test_resume import train_pieces

Z1, Z2, Z3 = (f"zero_optimization={{stage: {stage}}}" for stage in (1, 2, 3))


@pytest.mark.slow
@pytest.mark.multiprocess
def test_a_run_goes_on_at_any_stage_and_layout(tmp_path: Path) -> None:
    """6 steps, then 6 more elsewhere, against 12 at once: bit for bit at the same stage, else closely."""
    data = write_tiny_data(tmp_path / "data")
    settings = tiny_settings(
        data,
        train_iters=12,
        checkpoint_factor=100,
        no_weight_tying=False,
        num_kv_heads=2,
        hidden_size=40,
        rotary_pct=0.4,
        norm="scalenorm",  # one weight: the second data rank holds nothing of it
    )
    config = str(write_settings(tmp_path / "config.yml", settings))
    whole = tmp_path / "whole"
    starts = {stage: str(tmp_path / f"start{stage[-2]}") for stage in (Z1, Z2, Z3)}
    first = [[f"save={save}", stage, "exit_interval=6"] for stage, save in starts.items()]
    run_ranks(train_pieces, 2, config, [[f"save={whole}", Z3], *first])
    moves = [(Z3, 2, Z3), (Z3, 2, Z1), (Z1, 2, Z3), (Z2, 1, Z3), (Z3, 1, Z1)]
    for ranks in (2, 1):
        pieces = []
        for start, wanted, stage in moves:
            if wanted == ranks:
                other = str(tmp_path / f"from{start[-2]}to{stage[-2]}on{ranks}")
                shutil.copytree(starts[start], other)
                pieces.append([f"save={other}", f"load={other}", stage])
        run_ranks(train_pieces, ranks, config, pieces)
    for start, ranks, stage in moves:
        _assert_close(tmp_path / f"from{start[-2]}to{stage[-2]}on{ranks}", whole, exact=(start, stage) == (Z3, Z3))


@pytest.mark.multiprocess
def test_bf16_weights_and_masters_survive_stage_3(tmp_path: Path) -> None:
    """bf16 with dropout and recomputation: stop at 6 of 12, resume, compare with 12 at once, bit for bit."""
    data = write_tiny_data(tmp_path / "data")
    settings = tiny_settings(
        data,
        precision="bfloat16",
        hidden_dropout=0.1,
        attention_dropout=0.1,
        attention_path="reference",
        checkpoint_activations=True,
        train_iters=12,
        checkpoint_factor=100,
    )
    config = str(write_settings(tmp_path / "config.yml", settings))
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    pieces = [[f"save={whole}", Z3], [f"save={parts}", Z3, "exit_interval=6"], [f"save={parts}", f"load={parts}", Z3]]
    run_ranks(train_pieces, 2, config, pieces)
    _assert_close(parts, whole, exact=True)


def _assert_close(actual: Path, expected: Path, *, exact: bool) -> None:
    rel, atol = (0.0, 0.0) if exact else (1e-5, 1e-5)
    assert _losses(actual) == pytest.approx(_losses(expected), rel=rel, abs=0)
    ours, theirs = CheckpointReader(find_checkpoint(actual)), CheckpointReader(find_checkpoint(expected))
    assert ours.names() == theirs.names() and ours.optimizer_keys() == theirs.optimizer_keys()
    for name in theirs.names():
        torch.testing.assert_close(ours.weight(name), theirs.weight(name), rtol=0, atol=atol, msg=name)
        for key in theirs.optimizer_keys():
            moment = theirs.optimizer_tensor(name, key)
            torch.testing.assert_close(ours.optimizer_tensor(name, key), moment, rtol=0, atol=atol, msg=f"{name} {key}")


def _losses(save: Path) -> list[float]:
    events = [json.loads(line) for line in (save / "events.jsonl").read_text().splitlines()]
    losses = [event["loss"] for event in events if event["kind"] == "step"]
    assert len(losses) == 12
    return losses

"""One bit of one replica's weight differs: the next save names tensor and ranks, and is not made."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from megatron.checkpointing.replicas import _complaint
from tests.helpers.processes import run_ranks
from tests.helpers.tiny_run import tiny_settings, write_settings, write_tiny_data

LAYOUTS: dict[str, list[str]] = {"data": [], "tensor": ["model_parallel_size=2"]}


@pytest.mark.multiprocess
def test_a_flipped_bit_is_named(tmp_path: Path, score: Callable[..., None]) -> None:
    data = write_tiny_data(tmp_path / "data")
    config = write_settings(tmp_path / "config.yml", tiny_settings(data, train_iters=2, checkpoint_factor=2))
    ranks = run_ranks(flipped, 2, str(config), str(tmp_path), list(LAYOUTS.values()))
    held = 0
    for layout in range(len(LAYOUTS)):
        for rank in ranks:
            assert rank[layout]["before"] is None, "sound replicas are accepted"
            held += (
                rank[layout]["after"] == 5 and "ranks 0, 1 hold different values of final_norm" in rank[layout]["said"]
            )
    assert not list(tmp_path.glob("run*/global_step*"))
    score("A2", held // 2, len(LAYOUTS), "saves rank 0's copy and says nothing")


def test_with_more_ranks_the_odd_one_is_named() -> None:
    assert "rank 2 holds other values than the other 3 ranks of w" in _complaint("w", {0: 5, 1: 5, 2: 7, 3: 5})


def flipped(config: str, folder: str, layouts: list[list[str]]) -> list[dict[str, Any]]:
    """Build each layout, check the replicas, flip the last bit of a norm's weight on rank 1, and save."""
    import os

    import torch

    from megatron.checkpointing.replicas import check_replicas
    from megatron.errors import NumericsError
    from megatron.neox_arguments.load import load_arguments
    from megatron.training.build import build_run, start_parallel
    from megatron.training.saving import start_save

    found = []
    for number, overrides in enumerate(layouts):
        save = f"save={folder}/run{number}"
        args = load_arguments([config], [save, *overrides], world_size=int(os.environ["WORLD_SIZE"]))
        run = build_run(args, start_parallel(args))
        parameters = list(run.engine.module.parameters())
        result: dict[str, Any] = {"before": check_replicas(parameters, run.parallel)}
        if run.parallel.rank == 1:
            [weight] = [p for p in parameters if p.shard.name == "final_norm.weight"]
            with torch.no_grad():
                weight.view(torch.int32)[3] ^= 1
        try:
            start_save(run)
        except NumericsError as error:
            result |= {"after": error.exit_code, "said": str(error)}
        found.append(result)
    return found

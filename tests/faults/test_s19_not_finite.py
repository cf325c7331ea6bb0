"""A gradient becomes NaN on one rank: no rank updates, nothing is saved of the step, exit code 5."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.helpers.processes import run_ranks
from tests.helpers.tiny_run import tiny_settings, write_settings, write_tiny_data

CASES = {
    "data 2, fp32": [],
    "tensor 2, bf16": ["model_parallel_size=2", "precision=bfloat16"],
    "pipeline 2, fp32, no clipping": ["pipe_parallel_size=2", "gradient_clipping=0"],
    "pipeline 2, bf16": ["pipe_parallel_size=2", "precision=bfloat16"],
    "ZeRO-2, fp32": ["zero_optimization={stage: 2}"],
    "ZeRO-3, fp32": ["zero_optimization={stage: 3}"],
    "ZeRO-3, bf16": ["zero_optimization={stage: 3}", "precision=bfloat16"],
}
SKIPPED = ["pipe_parallel_size=2", "precision=bfloat16", "skip_nonfinite_steps=1"]


@pytest.mark.multiprocess
def test_one_rank_poisons_nobody(tmp_path: Path, score: Callable[..., None]) -> None:
    data = write_tiny_data(tmp_path / "data")
    config = write_settings(tmp_path / "config.yml", tiny_settings(data, train_iters=4, checkpoint_factor=2))
    ranks = run_ranks(poisoned_runs, 2, str(config), str(tmp_path), [*CASES.values(), SKIPPED])
    held = 0
    for case in range(len(CASES)):
        seen = [rank[case] for rank in ranks]
        held += all(
            one["code"] == 5 and one["unchanged"] and one["saved"] == ["global_step2"]
            and "at step 3" in one["message"] and "the last checkpoint is of step 2" in one["message"]
            for one in seen
        )  # fmt: skip
    for rank in ranks:
        skipped = rank[len(CASES)]
        assert skipped["code"] == 0 and skipped["saved"] == ["global_step2", "global_step4"]
        assert skipped["skipped"] == 1 and skipped["finite"]
    score("S19", held, len(CASES), naive())


def naive() -> str:
    """Adam with a NaN in the gradient."""
    weight = torch.nn.Parameter(torch.ones(3))
    optimizer = torch.optim.AdamW([weight])
    weight.grad = torch.tensor([0.0, math.nan, 0.0])
    torch.nn.utils.clip_grad_norm_([weight], 1.0)
    optimizer.step()
    assert weight.isnan().all()
    return "one NaN makes every weight NaN at the next update (clipping spreads it)"


def poisoned_runs(config: str, folder: str, cases: list[list[str]]) -> list[dict[str, Any]]:
    """On every rank: train each case with a gradient that rank 1 spoils in step 3."""
    import os

    from megatron.checkpointing.partitions import own_values
    from megatron.errors import NumericsError
    from megatron.neox_arguments.load import load_arguments
    from megatron.training.build import build_run, start_parallel
    from megatron.training.loop import train

    found = []
    for number, overrides in enumerate(cases):
        save = f"{folder}/run{number}"
        args = load_arguments([config], [f"save={save}", *overrides], world_size=int(os.environ["WORLD_SIZE"]))
        parallel = start_parallel(args)
        run = build_run(args, parallel)
        parameters = list(run.engine.module.parameters())
        before: list[torch.Tensor] = []

        def spoil(gradient: torch.Tensor, run: Any = run, parameters: Any = parameters, before: Any = before) -> Any:
            if run.state.iteration == 2 and run.parallel.rank == 1:
                return torch.full_like(gradient, math.nan)
            return gradient

        for parameter in parameters:
            parameter.register_hook(spoil)
        real_step = run.engine.optimizer.step

        def keep_and_step(*args: Any, run: Any = run, before: Any = before, step: Any = real_step) -> Any:
            if run.state.iteration == 2:
                before.extend(own_values(parameter).clone() for parameter in run.engine.module.parameters())
            return step(*args)

        run.engine.optimizer.step = keep_and_step
        code, message = 0, ""
        try:
            train(run)
        except NumericsError as error:
            code, message = error.exit_code, str(error)
        unchanged = bool(before) and all(torch.equal(a, own_values(b)) for a, b in zip(before, parameters, strict=True))
        found.append(
            {
                "code": code,
                "message": message,
                "unchanged": unchanged,
                "saved": sorted(path.name for path in Path(save).glob("global_step*")),
                "skipped": run.state.skipped,
                "finite": all(bool(parameter.isfinite().all()) for parameter in parameters),
            }
        )
    return found

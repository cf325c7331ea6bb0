"""Memory in the plan against memory that small runs really hold: model states to the byte, the peak within 10 %."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from megatron.mpu.cross_entropy import _CHUNK_ELEMENTS
from megatron.neox_arguments.load import arguments_from_texts
from megatron.planning.layouts import choice_of
from megatron.planning.memory import LOSS_CHUNK, memory_of
from megatron.planning.model import Model, vocabulary_of
from tests.helpers.processes import run_ranks
from tests.helpers.tiny_run import tiny_settings, write_tiny_data
from tests.megatron.planning.measure import measure_rank

# Small buckets: DeepSpeed's usual ones hold 500 million elements each, which would hide everything else.
_SMALL = {"reduce_bucket_size": 200_000, "allgather_bucket_size": 200_000}
RUNS: dict[str, tuple[int, dict[str, Any]]] = {
    "fp32": (1, {"zero_optimization": {"stage": 1, **_SMALL}}),
    "bf16, two data ranks": (2, {"precision": "bfloat16", "zero_optimization": {"stage": 1}}),
    "two stages": (2, {"pipe_parallel_size": 2, "train_batch_size": 16, "zero_optimization": {"stage": 1, **_SMALL}}),
    "ZeRO-2": (2, {"zero_optimization": {"stage": 2, **_SMALL}}),
    "recomputation": (1, {"checkpoint_activations": True, "zero_optimization": {"stage": 1, **_SMALL}}),
}


def test_the_loss_takes_as_much_at_a_time_as_planned() -> None:
    assert _CHUNK_ELEMENTS["other"] == LOSS_CHUNK


@pytest.mark.slow
@pytest.mark.multiprocess
@pytest.mark.parametrize("name", RUNS)
def test_a_plan_equals_what_a_run_holds(name: str, tmp_path: Path) -> None:
    world, changes = RUNS[name]
    sizes = {"hidden_size": 128, "seq_length": 256, "max_position_embeddings": 256, "train_batch_size": 8 * world}
    sizes |= {"train_micro_batch_size_per_gpu": 4, "prefill_loc_win_size_list": [256, 8, 12, 8]}
    text = yaml.safe_dump(tiny_settings(write_tiny_data(tmp_path), **{**sizes, **changes}))
    measured = run_ranks(measure_rank, world, text, world)
    args = arguments_from_texts([("tiny.yml", text)], world_size=world)
    planned = memory_of(Model(args, vocabulary_of(args, None)[0]), choice_of(args))
    ranks = planned if len(planned) == world else planned * world
    for plan, found in zip(ranks, measured, strict=True):
        assert plan.weights == found["weights"]
        # Adam's step counters (4 bytes for each of its groups) are the rest.
        assert 0 <= found["optimizer"] - plan.optimizer <= 64
    fullest = max(range(world), key=lambda rank: measured[rank]["peak"])
    assert ranks[fullest].total == pytest.approx(measured[fullest]["peak"], rel=0.1)

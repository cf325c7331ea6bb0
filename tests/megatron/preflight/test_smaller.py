"""What the dry-run step trains, by the means of the hosts; every trial's settings load."""

import json
from typing import Any

import pytest

from megatron.neox_arguments.arguments import NeoXArgs
from megatron.neox_arguments.load import arguments_from_texts
from megatron.planning.layouts import choice_of
from megatron.planning.memory import memory_of
from megatron.planning.model import Model
from megatron.preflight.smaller import Means, Trial, means_of, trial_of
from tests.helpers.tiny_run import tiny_settings

WORDS = 257
PLENTY = Means(memory=1e12, speed=1e15, seconds=100.0)


def _args(world: int = 4, **changes: Any) -> NeoXArgs:
    settings = tiny_settings("data", num_layers=8, prefill_loc_win_size_list=list(range(8, 16)), **changes)  # type: ignore[arg-type]
    return arguments_from_texts([("run.yml", json.dumps(settings))], world_size=world)


def test_one_text_where_a_micro_batch_is_too_slow() -> None:
    trial = trial_of(_args(1, train_batch_size=1024, train_micro_batch_size_per_gpu=32), Means(1e12, 1e9, 3.0), WORDS)
    assert isinstance(trial, Trial) and trial.words == "the real model, 1 of the batch of 1024"


def _tried(args: NeoXArgs, trial: Trial) -> NeoXArgs:
    return arguments_from_texts(args.texts, [*args.overrides, *trial.overrides], args.derived.world_size)


def test_the_real_step_where_it_fits() -> None:
    assert trial_of(_args(), PLENTY, WORDS) == Trial((), "the real model, the whole batch of 4")


@pytest.mark.parametrize("ramp", [None, [4, 4, 64]])
def test_less_of_the_batch_where_time_is_short(ramp: list[int] | None) -> None:
    args = _args(2, train_batch_size=1024, rampup_batch_size=ramp, pipe_parallel_size=2)
    trial = trial_of(args, Means(1e12, 1e9, 3.0), WORDS)
    assert isinstance(trial, Trial) and trial.words.startswith("the real model, 1 of the batch of 1024")
    tried = _tried(args, trial)
    assert (tried.derived.train_batch_size, tried.num_layers) == (1, 8)


@pytest.mark.parametrize("kinds", [None, [[["global"], 2], [["global", "global"], 3]]])
def test_the_first_layers_where_memory_is_short(kinds: list[object] | None) -> None:
    args = _args(pipe_parallel_size=2, hidden_size=512, attention_config=kinds, train_batch_size=16)
    needed = max(one.total - one.buffers for one in memory_of(Model(args, WORDS), choice_of(args)))
    trial = trial_of(args, Means(needed, 1e15, 100.0), WORDS)
    assert isinstance(trial, Trial) and trial.words.startswith("2 of 8 layers, 2 of the batch of 16")
    tried = _tried(args, trial)
    assert tried.derived.windows == args.derived.windows[:2] and tried.derived.pp_size == 2
    for means, there in (
        (Means(900.0, 1e15, 100.0), "there are 900 bytes"),
        (Means(2**40, 1e15, 0.0), "1.00 TiB and 0 s"),
    ):
        refusal = trial_of(args, means, WORDS)
        assert isinstance(refusal, str) and "2 of 8 layers" in refusal and there in refusal


def test_the_means_of_the_weakest_rank() -> None:
    cpu = {"accelerators": [], "devices": [], "memory": 8e9, "speed": 4e10}
    gpu = {"accelerators": ["0", "1"], "devices": [{"memory": 80e9}, {"memory": 40e9}], "memory": 1e9, "speed": None}
    assert means_of({"a": cpu, "b": {**cpu, "memory": 4e9}}, {"a": (0, 1), "b": (0,)}, 9.0) == Means(4e9, 2e10, 9.0)
    assert means_of({"a": gpu}, {"a": (0, 1)}, 9.0).memory == 40e9
    assert means_of({"a": {**gpu, "devices": []}}, {"a": (0, 1)}, 9.0).memory == float("inf"), "nobody says"

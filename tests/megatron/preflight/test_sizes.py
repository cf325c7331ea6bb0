"""Bytes and number of checkpoints, against a saved one and against Retention itself."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from megatron.checkpointing.retention import Retention
from megatron.neox_arguments.arguments import NeoXArgs
from megatron.neox_arguments.load import arguments_from_texts
from megatron.preflight.sizes import room_of
from tests.helpers.tiny_run import tiny_settings


def _args(**changes: Any) -> NeoXArgs:
    return arguments_from_texts([("run.yml", json.dumps(tiny_settings(Path("data"), **changes)))], world_size=1)


@pytest.mark.parametrize(
    ("changes", "bytes_a_weight"),
    [
        ({}, 12),
        ({"precision": "bfloat16"}, 14),
        ({"no_save_optim": True}, 4),
        ({"optimizer": {"type": "Lion", "params": {"lr": 0.001}}}, 8),
    ],
)
def test_bytes_of_a_weight(changes: dict[str, Any], bytes_a_weight: int) -> None:
    weights = room_of(_args(no_save_optim=True), 257).one / 4
    assert room_of(_args(save="run", checkpoint_factor=1, **changes), 257).one == weights * bytes_a_weight


@settings(max_examples=60, deadline=None)
@given(
    factor=st.integers(1, 9),
    length=st.integers(1, 40),
    last=st.none() | st.integers(1, 4),
    every=st.none() | st.integers(1, 12),
    extra=st.sets(st.integers(0, 40), max_size=3),
)
def test_number_at_once(factor: int, length: int, last: int | None, every: int | None, extra: set[int]) -> None:
    """Save after save, as the run will: the new one is whole before an old one goes."""
    args = _args(
        save="run",
        train_iters=length,
        checkpoint_factor=factor,
        keep_last_n_checkpoints=last,
        keep_checkpoints_every=every,
        extra_save_iters=sorted(extra) or None,
    )
    retention, there, most = Retention(last, every, extra), [], 0
    for step in range(length + 1):
        if step == length or args.derived.is_save_iteration(step):
            there.append(step)
            most = max(most, len(there))
            if last is not None:
                there = [one for one in there if one in there[-last:] or retention.keeps(one)]
    assert most <= room_of(args, 257).count <= most + 1

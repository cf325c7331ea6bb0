"""Processes: planned or real, divided into pipeline, tensor and data parallel."""

import pytest

from megatron.neox_arguments.deepspeed_config import deepspeed_config
from megatron.neox_arguments.layout import hostfile_slots


def world(args):
    derived = args.derived
    return derived.world_size, derived.pp_size, derived.tp_size, derived.dp_size


@pytest.mark.parametrize(
    ("changes", "real", "expected"),
    [
        ({}, None, (1, 1, 1, 1)),
        ({"pipe_parallel_size": 0}, None, (1, 1, 1, 1)),
        ({"pipe_parallel_size": 2, "model_parallel_size": 2}, None, (4, 2, 2, 1)),
        ({"pipe_parallel_size": 2}, 6, (6, 2, 1, 3)),
        ({"num_gpus": 4, "model_parallel_size": 2}, None, (4, 1, 2, 2)),
        ({"num_gpus": 4}, 2, (2, 1, 1, 2)),
        ({"train_batch_size": 16, "gradient_accumulation_steps": 2, "model_parallel_size": 2}, None, (8, 1, 2, 4)),
        ({"train_batch_size": 16, "pipe_parallel_size": 2}, None, (2, 2, 1, 1)),
    ],
)
def test_sizes(load, changes, real, expected):
    assert world(load(processes=real, **changes)) == expected


def test_hostfile_slots_and_limits(load, tmp_path):
    hostfile = tmp_path / "hosts"
    hostfile.write_text("# two hosts\nnode1 slots=8\n\nnode2 slots=4 # small\n")
    assert hostfile_slots(str(hostfile)) == [8, 4]
    assert load(hostfile=str(hostfile)).derived.dp_size == 12
    assert load(hostfile=str(hostfile), num_nodes=1).derived.dp_size == 8
    assert load(hostfile=str(hostfile), num_gpus=2).derived.dp_size == 4


def test_a_hostfile_of_another_machine_does_not_stop_a_check(load):
    assert load(hostfile="/cluster/hosts", num_gpus=2).derived.dp_size == 2


def test_ranks_that_do_not_divide_name_all_numbers_and_offer_valid_ones(complaint):
    text = complaint(pipe_parallel_size=2, model_parallel_size=2, num_gpus=7)
    assert "7 processes do not divide into pipe_parallel_size 2 x model_parallel_size 2 = 4" in text
    assert "4 or 8 processes" in text and "test.yml:" in text
    assert "4 processes" in complaint(pipe_parallel_size=4, num_gpus=3)


def test_a_context_group_is_one_replica(load, complaint):
    args = load(context_parallel_size=2, pipe_parallel_size=2, num_gpus=8, train_batch_size=8)
    assert world(args) == (8, 2, 1, 2) and args.derived.cp_size == 2
    assert (args.derived.micro_batch_size, args.derived.gradient_accumulation_steps) == (2, 2)
    # To DeepSpeed the four ranks that hold the same weights have a batch each: 2 x 2 x 4.
    assert deepspeed_config(args)["train_batch_size"] == 16
    assert world(load(context_parallel_size=2)) == (2, 1, 1, 1)
    assert "x context_parallel_size 2 = 8" in complaint(
        context_parallel_size=2, pipe_parallel_size=2, model_parallel_size=2, num_gpus=4
    )


def test_a_context_group_that_gains_little_is_told(load):
    assert load(context_parallel_size=2).derived.notes == ()
    [full] = load(context_parallel_size=2, USE_ORIGINAL_FULL_ATTEN=True, separator_token_ids=...).derived.notes
    assert "all earlier keys" in full
    assert any("self-adjusting" in note for note in load(context_parallel_size=2, USE_SA_SOFTMAX=True).derived.notes)

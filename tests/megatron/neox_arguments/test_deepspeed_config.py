"""The JSON for DeepSpeed, also as DeepSpeed itself reads it."""

import json

from megatron.neox_arguments.deepspeed_config import deepspeed_config
from megatron.neox_arguments.fields.deepspeed import OWN_ENTRIES


def test_batch_and_zero(load):
    config = deepspeed_config(load(train_batch_size=16, processes=4))
    assert config["train_batch_size"] == 16
    assert config["train_micro_batch_size_per_gpu"] == 2
    assert config["gradient_accumulation_steps"] == 2
    assert config["zero_optimization"] == {"stage": 1}
    assert config["gradient_clipping"] == 1.0
    assert "optimizer" not in config and "fp16" not in config and "bf16" not in config
    json.dumps(config)


def test_stage_0_becomes_1_and_bucket_sizes_pass(load):
    block = {"stage": 0, "reduce_bucket_size": 1000, "cpu_offload": False, "overlap_comm": True}
    config = deepspeed_config(load(zero_optimization=block))
    assert config["zero_optimization"] == {"stage": 1, "reduce_bucket_size": 1000, "overlap_comm": True}


def test_bf16_sums_gradients_in_fp32(load):
    for changes in ({"precision": "bfloat16"}, {"bf16": {"enabled": True}}):
        config = deepspeed_config(load(**changes))
        assert config["bf16"] == {"enabled": True} and config["data_types"] == {"grad_accum_dtype": "fp32"}


def test_fp16_block(load):
    block = {"fp16": True, "enabled": True, "loss_scale": 0, "initial_scale_power": 12, "min_loss_scale": 1}
    config = deepspeed_config(load(fp16=block))
    assert config["fp16"]["enabled"] and config["fp16"]["initial_scale_power"] == 12
    assert not {"fp16", "type"} & set(config["fp16"])
    assert deepspeed_config(load(precision="fp16"))["fp16"]["enabled"]


def test_timer_lines_only_on_request(load):
    assert deepspeed_config(load(steps_per_print=5))["steps_per_print"] > 10**9
    config = deepspeed_config(load(steps_per_print=5, wall_clock_breakdown=True))
    assert (config["steps_per_print"], config["wall_clock_breakdown"]) == (5, True)


def test_pass_through_and_extra_entries(load):
    args = load(dump_state=True, comms_logger={"enabled": True}, deepspeed_extra_args={"seed_layers": True})
    config = deepspeed_config(args)
    assert config["dump_state"] and config["comms_logger"] == {"enabled": True} and config["seed_layers"]


def test_all_entries_are_listed_as_our_own(load):
    """So that the rule against clashes knows them."""
    for changes in ({"precision": "bf16"}, {"precision": "fp16", "comms_logger": {"enabled": True}}):
        assert set(deepspeed_config(load(**changes))) <= OWN_ENTRIES

"""Computed values."""

import pytest

from megatron.optim.schedule import schedule_from_args


def test_sizes_of_the_model(load):
    derived = load().derived
    assert (derived.head_dim, derived.num_kv_heads, derived.mlp_hidden_size) == (16, 4, 256)
    derived = load(num_kv_heads=2, intermediate_size=100).derived
    assert (derived.num_kv_heads, derived.mlp_hidden_size) == (2, 100)


@pytest.mark.parametrize(
    ("changes", "precision", "sums"),
    [
        ({}, "fp32", "fp32"),
        ({"precision": "bfloat16"}, "bf16", "fp32"),
        ({"precision": "bf16"}, "bf16", "fp32"),
        ({"bf16": {"enabled": True}}, "bf16", "fp32"),
        ({"bf16": {"enabled": True}, "data_types": {"grad_accum_dtype": "bf16"}}, "bf16", "bf16"),
        ({"fp16": {"enabled": True}}, "fp16", "fp16"),
        ({"fp16": {"enabled": True, "type": "bfloat16"}}, "bf16", "fp32"),
        ({"fp16": {"enabled": False}, "bf16": {"enabled": True}}, "bf16", "fp32"),
        ({"precision": "fp16"}, "fp16", "fp16"),
        ({"fp16": {"enabled": False}}, "fp32", "fp32"),
    ],
)
def test_precision(load, changes, precision, sums):
    derived = load(**changes).derived
    assert (derived.precision, derived.grad_accum_dtype) == (precision, sums)


def test_optimizer_from_block_or_flat_keys(load):
    optimizer = load(optimizer={"type": "AdamW", "params": {"lr": 0.5, "betas": [0.9, 0.95]}}, weight_decay=0.3).derived
    assert (optimizer.optimizer.name, optimizer.optimizer.lr, optimizer.optimizer.betas) == ("adamw", 0.5, (0.9, 0.95))
    assert optimizer.optimizer.weight_decay == 0.3
    flat = load(optimizer=..., lr=0.25).derived.optimizer
    assert (flat.lr, flat.betas, flat.eps, flat.weight_decay) == (0.25, (0.9, 0.999), 1e-8, 0.1)
    block = load(optimizer={"params": {"lr": 1, "weight_decay": 0}}).derived.optimizer
    assert (block.lr, block.weight_decay) == (1, 0)


def saves(args, upto):
    return [step for step in range(upto + 1) if args.derived.is_save_iteration(step)]


def test_save_steps(load):
    assert saves(load(save="a", checkpoint_factor=4, extra_save_iters=[0, 1, 6]), 12) == [0, 1, 4, 6, 8, 12]
    assert saves(load(save="a", checkpoint_factor=2, checkpoint_scale="log"), 20) == [1, 2, 4, 8, 16]
    assert saves(load(save="a", extra_save_iters=[3]), 5) == [3]
    assert saves(load(), 5) == []


def test_the_schedule_lasts_as_long_as_the_run(load):
    assert schedule_from_args(load(train_iters=10)).end == 10
    assert schedule_from_args(load(train_iters=10, lr_decay_iters=20)).end == 20
    assert schedule_from_args(load(train_tokens=1000)).end == 1024  # eight whole sequences
    assert schedule_from_args(load(train_epochs=2), train_samples=100).end == 12_800


def test_zero_stage_0_runs_as_1(load):
    assert load(zero_optimization={"stage": 0}).derived.zero_stage == 1
    assert load().derived.zero_stage == 1

"""Each rule on optimizer, learning rate, length and muP: broken once, and what is said."""

import pytest

from megatron.neox_arguments.optimization_rules import OPTIMIZATION_RULES

MUON = {"type": "Muon", "params": {"lr": 0.01}}
MUP = {"use_mup": True, "mup_base_width": 32}
BREAKING = [
    ("learning_rate_is_given_once", {"optimizer": {"type": "Adam"}}, ["no learning rate"]),
    ("learning_rate_is_given_once", {"optimizer": ...}, ["no learning rate"]),
    ("learning_rate_is_given_once", {"lr": 0.5}, ["0.5", "0.001", "disagree"]),
    ("min_lr_is_below_peak", {"min_lr": 0.1}, ["min_lr 0.1", "0.001", "0.0001"]),
    (
        "weight_decay_is_given_once",
        {"weight_decay": 0.2, "optimizer": {"params": {"lr": 0.1, "weight_decay": 0.3}}},
        ["0.2", "0.3"],
    ),
    ("optimizer_is_built", {"optimizer": {"type": "SM3", "params": {"lr": 0.1}}}, ["'SM3'", "Adam"]),
    ("optimizer_is_built", {"optimizer": {"params": {"lr": 0.1, "momentum": 0.9}}}, ["betas"]),
    ("optimizer_is_built", {"optimizer": {"type": "SGD", "params": {"lr": 0.1, "betas": [0.9, 0.9]}}}, ["momentum"]),
    ("schedule_comes_from_settings", {"use_checkpoint_lr_scheduler": True}, ["function of the step"]),
    ("optimizer_is_built", {"optimizer": {"type": "OneBitAdam", "params": {"lr": 0.1}}}, ["dropped it", "Use Adam"]),
    ("optimizer_is_built", {"optimizer": {"type": "Lion", "params": {"lr": 0.1, "eps": 1e-6}}}, ["eps", "betas"]),
    ("optimizer_is_built", {"optimizer": MUON, "use_bnb_optimizer": True}, ["Muon", "8-bit"]),
    ("schedule_has_one_unit", {"train_tokens": 1000, "lr_decay_iters": 10}, ["lr_decay_tokens"]),
    ("schedule_has_one_unit", {"train_epochs": 1, "lr_warmup_iters": 10}, ["lr_warmup_tokens"]),
    ("inverse_root_needs_a_warmup", {"lr_decay_style": "inverse_sqrt", "warmup": 0.0}, ["lr_warmup_iters: 1000"]),
    ("schedule_pieces_fit", {"train_iters": 10, "lr_warmup_iters": 10}, ["10 iters", "lr_decay_iters"]),
    (
        "schedule_pieces_fit",
        {"train_tokens": 1000, "lr_decay_style": "wsd", "lr_wsd_decay_tokens": 995},
        ["995", "1000", "lr_decay_tokens"],
    ),
    ("schedule_pieces_fit", {"train_iters": 10, "lr_wsd_decay_iters": 5}, ["wsd", "linear"]),
    ("length_is_given_once", {"train_iters": 10, "train_tokens": 1000}, ["train_iters 10", "train_tokens 1000"]),
    ("length_is_given_once", {"train_epochs": 1.5, "train_tokens": 1000}, ["train_epochs 1.5"]),
    ("neox_order_knows_its_length", {"train_epochs": 1, "data_order": "neox"}, ["data_order: computed"]),
    ("mup_is_complete", {"use_mup": True}, ["mup_base_width: 256"]),
    ("mup_is_complete", {"mup_output_temp": 2.0}, ["use_mup: true"]),
    ("mup_is_complete", {**MUP, "optimizer": MUON}, ["Muon", "Adam"]),
    ("mup_is_complete", {**MUP, "optimizer": {"params": {"lr": 0.1, "adam_w_mode": False}}}, ["adam_w_mode: true"]),
    ("mup_is_complete", {**MUP, "init_method": "xavier_normal"}, ["xavier_normal", "small_init"]),
]


@pytest.mark.parametrize(("rule", "changes", "parts"), BREAKING)
def test_a_broken_rule_says_what_and_what_instead(complaint, rule, changes, parts):
    text = complaint(**changes)
    for part in parts:
        assert part in text
    assert "problems in the settings" not in text, "one mistake, one complaint"


def test_every_rule_is_broken_by_a_case():
    assert {rule.__name__ for rule in OPTIMIZATION_RULES} == {rule for rule, _, _ in BREAKING}


@pytest.mark.parametrize(
    "changes",
    [
        {"lr": 1e-3},
        {"optimizer": ..., "lr": 1e-3},
        {"min_lr": 1e-3},
        {"optimizer": {"type": "SGD", "params": {"lr": 0.1, "momentum": 0.9}}},
        {"optimizer": {"type": "muon", "params": {"lr": 0.1, "ns_steps": 6, "betas": [0.9, 0.95]}}},
        {"use_bnb_optimizer": True},
        {"train_iters": 100, "warmup": 0.1, "lr_warmup_iters": 5},
        {"train_tokens": 5e9, "lr_decay_style": "wsd", "lr_wsd_decay_tokens": 1e9},
        {"train_iters": 10, "lr_decay_tokens": 640},
        MUP,
    ],
)
def test_what_is_fine(load, changes):
    load(**changes)


@pytest.mark.parametrize("ramp", [[2, 2, 100], [4, 4, 7], [8, 8, 5], [2, 6, 5]])
def test_a_ramp_that_fits(load, ramp):
    plan = load(train_batch_size=8, rampup_batch_size=ramp).derived.batch_plan
    assert plan.size_at(0) == ramp[0] and plan.size_at(ramp[2]) == 8


@pytest.mark.parametrize("ramp", [[3, 1, 100], [2, 4, 100], [10, 2, 100], [2, 1, 100]])
def test_a_ramp_that_does_not_offers_ramps_that_do(load, complaint, ramp):
    text = complaint(train_batch_size=8, rampup_batch_size=ramp)
    assert "rampup_batch_size" in text and "[2, 2, N], [4, 4, N]" in text
    for fine in ([2, 2, 50], [4, 4, 50]):
        load(train_batch_size=8, rampup_batch_size=fine)

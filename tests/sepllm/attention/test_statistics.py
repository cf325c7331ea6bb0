"""Kept ratios, and the original's own counters."""

import json

import torch

from sepllm.attention.plan import build_plan, build_plans
from sepllm.attention.statistics import attention_counts, kept_key_ratio, kept_ratio, pair_counts
from sepllm.config import SepConfig
from tests.helpers.shared import shared_folder
from tests.sepllm.attention.brute_force import sep, text


def test_by_hand() -> None:
    ids = torch.tensor([[9, 9, 1, 9, 9]])
    plan = build_plan(sep(init_tokens=1, window=1), ids)
    # rows see: 0 | 0 1 | 0 2 | 0 2 3 | 0 2 4
    assert pair_counts(plan).tolist() == [11.0, 15.0]
    assert kept_ratio(plan).item() == 11 / 15
    assert kept_key_ratio(plan).item() == 3 / 5
    assert attention_counts(plan).tolist() == [11.0, 15.0, 3.0, 5.0]


def test_full_attention_keeps_everything() -> None:
    plan = build_plan(SepConfig(mode="full"), text(2, 33), first_real=torch.tensor([0, 32]))
    assert kept_ratio(plan).item() == kept_key_ratio(plan).item() == 1.0


def test_counters_of_the_original() -> None:
    """Its case with left padding is left out: the original counts padding, we do not."""
    cases = json.loads(shared_folder("reference", "goldens", "kv_ratio.json").read_text())
    for name in ("plain", "train_only_prefill"):
        original, log = cases[name]["config"], list(cases[name]["log"])
        config = SepConfig(
            original["separator_token_ids"],
            init_tokens=original["init_tok_max_idx"] + 1,
            window=original["prefill_local_window_size"],
        )
        for sequence in cases[name]["sequences"]:
            everything = torch.tensor(sequence["ids"])
            for length in range(sequence["prefill_len"], everything.shape[1] + 1):
                entry = log.pop(0)
                assert entry["len"] == length
                plans = build_plans(config, everything[:, :length], range(original["num_layers"]))
                kept = sum(int(plan.kept_keys[:, -1].sum()) for plan in plans)
                seen = sum(int(plan.seen_keys[:, -1].sum()) for plan in plans)
                assert [kept, seen] == entry["kv_seq"]
                if entry["phase"] == "prefill":
                    assert sum(pair_counts(plan) for plan in plans).tolist() == entry["att_seq"]
        assert not log

"""SepLLM's own checks: our rules, and the decisions of the original checker."""

import json

import pytest

from megatron.errors import SettingsError
from megatron.neox_arguments.attention_rules import ATTENTION_RULES, expand_attention_config
from tests.helpers.shared import shared_folder

NINE = [15, 13, 32, 2, 28, 27, 209, 186, 187]
BIPE = {"USE_BiPE": True, "BiPE_seps": NINE, "pos_emb": "rotary"}

BREAKING = [
    ("at_most_one_mode", {"streamingLLM": True, "USE_ORIGINAL_FULL_ATTEN": True}, "Keep one of them"),
    ("at_most_one_mode", {"streamingLLM": True, "USE_SEP_ATTN_KERNEL_ACCELERATOR": True}, "streamingLLM and USE_SEP"),
    ("sepllm_has_separators", {"separator_token_ids": ...}, "no separators are given"),
    ("sepllm_has_separators", {"separator_token_ids": []}, "no separators are given"),
    ("sepllm_has_separators", {"separator_token_ids": [-1]}, "[-1]"),
    ("separators_are_given_once", {"separators": ".,"}, "Keep one of them"),
    ("separators_are_given_once", {"separator_token_ids": [3, -1]}, "-1 is not a token id"),
    ("windows_are_positive", {"prefill_local_window_size": 0}, "0 is not a window"),
    ("windows_are_positive", {"generate_local_window_size": -3}, "-3 is not a window"),
    ("window_lists_fit_layers", {"USE_PREFILL_LOCAL_WIN_SIZES_wrt_LAYERS": True}, "a list of 4 whole numbers"),
    (
        "window_lists_fit_layers",
        {"USE_PREFILL_LOCAL_WIN_SIZES_wrt_LAYERS": True, "prefill_loc_win_size_list": [1, 2, 3]},
        "3 entries for num_layers 4",
    ),
    (
        "window_lists_fit_layers",
        {"USE_GENERATE_LOCAL_WIN_SIZES_wrt_LAYERS": True, "generate_win_loc_size_list": [1, 2, 0, 3]},
        "entry 2 is 0",
    ),
    ("window_lists_fit_layers", {"USE_FIXED_SEP_INTERVALs": True}, "fixed_sep_intervals_list"),
    ("dense_layers_are_there", {"dense_layers": [0, 4]}, "there is no layer 4: layers count from 0 to 3"),
    ("dense_layers_are_there", {"dense_layers": [-5]}, "there is no layer -5"),
    (
        "dense_layers_are_there",
        {
            "dense_layers": [0],
            "USE_PREFILL_LOCAL_WIN_SIZES_wrt_LAYERS": True,
            "prefill_loc_win_size_list": [1, 2, 3, 4],
        },
        "already gives every layer its window",
    ),
    ("streaming_is_plain", {"streamingLLM": True, "dense_layers": [0]}, "same window in every layer"),
    ("first_tokens_are_counted", {"init_tok_max_idx": -2}, "-2 is below -1"),
    ("first_tokens_are_counted", {"init_tok_max_idx": -1, "streamingLLM": True}, "three tokens"),
    ("streaming_is_plain", {"streamingLLM": True, **BIPE}, "USE_BiPE: false"),
    ("bilevel_positions_fit", {"USE_BiPE": True, "pos_emb": "alibi"}, "BiPE_seps is None"),
    (
        "bilevel_positions_fit",
        {
            **BIPE,
            "BiPE_seps": "separators",
            "separator_token_ids": ...,
            "USE_FIXED_SEP_INTERVALs": True,
            "fixed_sep_intervals_list": [4] * 4,
        },
        "attention of mode fixed has no separators",
    ),
    ("bilevel_positions_fit", {**BIPE, "BiPE_seps": [2, -4]}, "-4 is not a token id"),
    ("bilevel_positions_fit", {**BIPE, "pos_emb": "learned"}, "not with learned"),
    ("bilevel_positions_fit", {**BIPE, "rope_fusion": True}, "rope_fusion"),
    (
        "recompiling_needs_the_kernel",
        {"RECOMPILE_SEP_ATTN_KERNEL": True, "USE_SEP_ATTN_KERNEL_ACCELERATOR": False},
        "RECOMPILE_SEP_ATTN_KERNEL",
    ),
    ("padding_id_is_zero", {"PADDING_ID": 7}, "7"),
    ("attention_config_is_global", {"attention_config": [[["global", "local"], 2]]}, "layers of kind local"),
    ("attention_config_is_global", {"attention_config": [[["global"], 3]]}, "3 layers, num_layers is 4"),
    ("attention_config_is_global", {"attention_config": [["global", 4]]}, "is not [[kinds], repeat]"),
    ("path_can_compute", {"USE_SA_SOFTMAX": True, "attention_path": "packed"}, "plain softmax only"),
    ("path_can_compute", {"attention_path": "blocked"}, "self-adjusting softmaxes only"),
    (
        "path_can_compute",
        {"USE_SA_SOFTMAX": True, "attention_dropout": 0.1, "attention_path": "blocked"},
        "(0.1). Use auto",
    ),
    ("path_can_compute", {"attention_dropout": 0.1, "attention_path": "triton"}, "(0.1). Use auto"),
    ("path_can_compute", {"attention_dropout": 0.1, "attention_path": "packed"}, "(0.1). Use auto"),
]


@pytest.mark.parametrize(("rule", "changes", "part"), BREAKING)
def test_a_broken_rule_says_what_and_where(complaint, rule, changes, part):
    text = complaint(**changes)
    assert part in text
    assert "problems in the settings" not in text, "one mistake, one complaint"


def test_every_rule_is_broken_by_a_case():
    assert {rule.__name__ for rule in ATTENTION_RULES} == {rule for rule, _, _ in BREAKING}


def test_full_attention_never_fails_on_sepllm_keys(load):
    args = load(
        USE_ORIGINAL_FULL_ATTEN=True,
        PADDING_ID=7,
        USE_BiPE=True,
        separator_token_ids=[-5],
        prefill_local_window_size=0,
        init_tok_max_idx=-9,
        USE_PREFILL_LOCAL_WIN_SIZES_wrt_LAYERS=True,
        RECOMPILE_SEP_ATTN_KERNEL=True,
        attention_config=["local"] * 4,
    )
    assert args.derived.attention_mode == "full"
    assert args.derived.bipe_separators is None
    assert any("PADDING_ID" in note and "no effect" in note for note in args.derived.notes)


@pytest.mark.parametrize(
    "config",
    [
        [[["global"], 4]],
        [[["global"], "all"]],
        [[["global", "global"], 2]],
        ["global"] * 4,
        [[["Global"], 1], [["global"], 3]],
    ],
)
def test_forms_of_attention_config(config):
    assert expand_attention_config(config, 4) == ["global"] * 4


# Where we decide otherwise than the original checker, and why.
DELIBERATE = {
    "USE_SEP_ATTN_KERNEL_ACCELERATOR not given": (
        "the original's default true makes every other mode fail until it is set to false;"
        " here a mode flag alone is enough, and only an explicit true clashes"
    ),
    "tuple": "YAML has no tuples: the case is the list [15, 13], which is fine",
    "SA without separators": "the original crashes at the first forward; here it is full attention with that softmax",
    "local layers under SepLLM": "the original never checks attention_config there and ignores it; here it is refused",
}


def deliberate_difference(case):
    changes, note = case["overrides"], case["note"]
    if note == "tuple is not accepted":
        return "tuple"
    if changes.get("USE_SA_SOFTMAX") and changes.get("separator_token_ids", NINE) is None:
        return "SA without separators"
    if set(changes.get("attention_config", [])) == {"local"}:
        return "local layers under SepLLM"
    modes = ("USE_ORIGINAL_FULL_ATTEN", "streamingLLM", "USE_SA_SOFTMAX", "USE_SA_SOFTMAX_NO_DENO")
    if "USE_SEP_ATTN_KERNEL_ACCELERATOR" not in changes and sum(bool(changes.get(mode)) for mode in modes) == 1:
        return "USE_SEP_ATTN_KERNEL_ACCELERATOR not given"
    return None


def decision(load, changes):
    base = {
        "num_layers": 12,
        "hidden_size": 768,
        "num_attention_heads": 12,
        "seq_length": 2048,
        "max_position_embeddings": 2048,
        "pos_emb": "rotary",
        "separator_token_ids": NINE,
    }
    try:
        load(**base | changes)
    except SettingsError as error:
        return False, str(error)
    return True, ""


def golden_cases():
    return json.loads((shared_folder("reference", "goldens") / "arg_checker.json").read_text())["cases"]


def test_decisions_of_the_original_checker(load):
    cases, differences = golden_cases(), []
    assert len(cases) > 50
    for case in cases:
        accepted, text = decision(load, case["overrides"])
        reason = deliberate_difference(case)
        if reason:
            differences.append(reason)
            assert accepted != case["ok"], (case, "is listed as different and is not")
        else:
            assert accepted == case["ok"], (case, text)
    assert set(differences) == set(DELIBERATE)


def test_an_explicit_kernel_flag_decides_as_in_the_original(load):
    """The original's default written out: the cases that differ above then agree."""
    for case in golden_cases():
        if deliberate_difference(case) == "USE_SEP_ATTN_KERNEL_ACCELERATOR not given":
            accepted, _ = decision(load, {**case["overrides"], "USE_SEP_ATTN_KERNEL_ACCELERATOR": True})
            assert accepted == case["ok"], case


def test_rewritten_values_of_full_and_streaming_attention(load):
    """What the original checker rewrites is what we compute."""
    seen = 0
    for case in golden_cases():
        if not case["ok"] or not case["changed"] or deliberate_difference(case):
            continue
        seen += 1
        pythia = {"num_layers": 12, "hidden_size": 768, "num_attention_heads": 12, "seq_length": 2048}
        changes = {**pythia, "max_position_embeddings": 2048, "separator_token_ids": NINE, **case["overrides"]}
        derived = load(**changes).derived
        changed = case["changed"]
        if "prefill_local_window_size" in changed:
            assert set(derived.windows) == {changed["prefill_local_window_size"]}
        if "generate_local_window_size" in changed:
            assert set(derived.generate_windows) == {changed["generate_local_window_size"]}
        if "separator_token_ids" in changed:
            assert changed["separator_token_ids"] == [-1] and derived.separator_token_ids is None
        if "init_tok_max_idx" in changed:
            assert derived.init_tokens == changed["init_tok_max_idx"] + 1
        if "USE_BiPE" in changed:
            assert derived.bipe_separators is None
    assert seen >= 6

"""Each rule between keys: what breaks it, and what the message offers."""

import pytest

from megatron.neox_arguments.validate import RULES

CHANGES = "train_data_weight_changes"
MIXTURE = {"train_data_paths": ["a", "b"], "valid_data_paths": ["a"], "test_data_paths": ["a"]}
ROTARY = {"pos_emb": "rotary"}

BREAKING = [
    ("heads_divide_hidden_size", {"num_attention_heads": 5}, ["64", "5", "4 or 8", "hidden_size 65"]),
    ("kv_heads_divide_heads", {"num_kv_heads": 3}, ["num_attention_heads 4", "num_kv_heads 3", "2 or 4"]),
    (
        "tensor_ranks_divide_widths",
        {"model_parallel_size": 3},
        ["num_attention_heads 4, intermediate_size 256", "model_parallel_size 3", "2 or 4"],
    ),
    ("tensor_ranks_divide_widths", {"model_parallel_size": 4, "num_kv_heads": 2}, ["num_kv_heads 2"]),
    ("tensor_ranks_divide_widths", {"model_parallel_size": 2, "intermediate_size": 201}, ["intermediate_size 201"]),
    ("stages_have_layers", {"pipe_parallel_size": 5}, ["5 pipeline stages for 4 layers", "at most 4"]),
    ("partition_method_is_known", {"pipe_partition_method": "evenly"}, ["'evenly'", "uniform"]),
    ("positions_cover_sequence", {"max_position_embeddings": 64}, ["64", "128"]),
    ("rotary_width_is_even", {"pos_emb": "rotary", "rotary_pct": 0.2}, ["3 dimensions", "0.25"]),
    ("rotary_width_is_even", {"pos_emb": "rotary", "rotary_pct": 0.01}, ["0 dimensions", "0.125"]),
    ("positions_are_built", {"pos_emb": "rpe"}, ["rpe", "alibi"]),
    ("tied_norm_needs_parallel_residual", {"gpt_j_tied": True}, ["gpt_j_residual: true"]),
    (
        "precision_is_named_once",
        {"precision": "fp32", "bf16": {"enabled": True}},
        ["precision says fp32", "bf16 says bf16"],
    ),
    ("precision_is_named_once", {"fp16": {"enabled": True, "fp16": False}}, ["fp16.fp16"]),
    ("gradient_sum_type_fits", {"data_types": {"grad_accum_dtype": "bf16"}}, ["fp32 model", "bf16"]),
    (
        "combinations_are_legal",
        {"fp16": {"enabled": True}, "data_types": {"grad_accum_dtype": "fp32"}, "pipe_parallel_size": 2},
        ["pipeline x fp16", "tied embedding", "no_weight_tying"],
    ),
    ("zero_options_are_built", {"zero_optimization": {"offload_param": {"device": "cpu"}}}, ["offload_param"]),
    (
        "combinations_are_legal",
        {"zero_optimization": {"stage": 2}, "pipe_parallel_size": 2},
        ["pipeline x ZeRO-2", "stage: 1"],
    ),
    (
        "combinations_are_legal",
        {"zero_optimization": {"stage": 3}, "optimizer": {"type": "Muon", "params": {"lr": 0.1}}},
        ["matrices x ZeRO-3", "stage: 2", "Lion"],
    ),
    ("zero_options_are_built", {"zero_optimization": {"stage": 1, "cpu_offload": True}}, ["cpu_offload"]),
    ("extra_entries_do_not_clash", {"deepspeed_extra_args": {"bf16": {"enabled": True}}}, ["bf16 is set by"]),
    ("extra_entries_do_not_clash", {"deepspeed_extra_args": {"amp": {"enabled": True}}}, ["amp: Apex"]),
    ("save_knows_when", {"save": "runs/a"}, ["checkpoint_factor: 1000"]),
    ("log_scale_needs_a_base", {"save": "a", "checkpoint_scale": "log", "checkpoint_factor": 1}, ["2 or more"]),
    (
        "one_source_of_data",
        {"data_path": "a", "train_data_paths": ["a"], "valid_data_paths": ["a"], "test_data_paths": ["a"]},
        ["exclude"],
    ),
    ("one_source_of_data", {"train_data_paths": ["a"]}, ["valid_data_paths, test_data_paths"]),
    (
        "weights_fit_paths",
        {
            "train_data_paths": ["a", "b"],
            "valid_data_paths": ["a"],
            "test_data_paths": ["a"],
            "train_data_weights": [1.0],
        },
        ["1 entries for 2 train_data_paths"],
    ),
    (
        "weights_fit_paths",
        {
            "train_data_paths": ["a"],
            "valid_data_paths": ["a"],
            "test_data_paths": ["a"],
            "train_data_weights": [0.0],
        },
        ["all weights are 0"],
    ),
    ("split_is_readable", {"split": "most, some"}, ["'most, some'", "969, 30, 1"]),
    ("split_is_readable", {"split": "0,0,0"}, ["969, 30, 1"]),
    ("split_is_readable", {"split": "9,-1,1"}, ["969, 30, 1"]),
    ("data_reader_is_built", {"data_impl": "cached"}, ["mmap"]),
    ("rows_keep_their_order", {"data_kind": "rows", "pack_impl": "unpacked"}, ["'unpacked'", "rows"]),
    ("rows_keep_their_order", {"data_kind": "rows", "data_order": "neox"}, ["'neox'", "rows"]),
    (
        "one_rule_of_weights",
        {"weight_by_num_documents": True, "weight_by_num_tokens": True},
        ["weight_by_num_documents", "Keep one"],
    ),
    ("weight_changes_fit", MIXTURE | {CHANGES: [{"samples": 9, "weights": [1.0]}]}, ["each of the 2"]),
    ("weight_changes_fit", MIXTURE | {CHANGES: [{"samples": 9, "weights": [0, 0]}]}, ["are 0"]),
    ("weight_changes_fit", MIXTURE | {CHANGES: [{"samples": n, "weights": [1, 1]} for n in (9, 9)]}, ["[9, 9]"]),
    (
        "weight_changes_fit",
        MIXTURE | {"data_order": "neox", CHANGES: [{"samples": 9, "weights": [1, 1]}]},
        ["data_order: computed"],
    ),
    ("rope_scaling_has_frequencies", {"rope_scaling": {"rope_type": "ntk", "factor": 2}}, ["pos_emb is learned"]),
    (
        "rope_scaling_has_frequencies",
        ROTARY | {"rotary_pct": 0.125, "rope_scaling": {"rope_type": "ntk", "factor": 2}},
        ["rotated", "here are 2", "linear"],
    ),
    (
        "rope_scaling_entries_fit",
        ROTARY | {"rope_scaling": {"rope_type": "linear", "factor": 2, "beta_fast": 9}},
        ["beta_fast", "linear"],
    ),
    (
        "rope_scaling_entries_fit",
        ROTARY | {"rope_scaling": {"rope_type": "llama3", "factor": 2, "low_freq_factor": 4}},
        ["low_freq_factor 4", "below high_freq_factor 4"],
    ),
    (
        "rope_scaling_entries_fit",
        ROTARY | {"rope_scaling": {"rope_type": "yarn", "factor": 2, "beta_slow": 40}},
        ["beta_slow 40", "below beta_fast 32"],
    ),
    ("gated_mlp_has_no_bias", {"activation": "swiglu", "use_bias_in_mlp": True}, ["no biases"]),
    (
        "noise_scale_sees_whole_gradients",
        {"log_gradient_noise_scale": True, "pipe_parallel_size": 2, "no_weight_tying": False},
        ["tied embedding", "no_weight_tying: true"],
    ),
    (
        "noise_scale_sees_whole_texts",
        {"log_gradient_noise_scale": True, "context_parallel_size": 2},
        ["context_parallel_size: 1"],
    ),
    ("finetune_has_weights", {"finetune": True}, ["load", "warm_start: FOLDER"]),
    ("finetune_has_weights", {"finetune": True, "load": "a", "warm_start": "b"}, ["Keep warm_start"]),
    ("fresh_weights_belong_to_a_warm_start", {"warm_start_fresh": ["*"]}, ["warm_start: FOLDER"]),
    ("tasks_during_training_can_run", {"eval_tasks_interval": 10}, ["no tasks", "eval_tasks: [piqa]"]),
    (
        "tasks_during_training_can_run",
        {"eval_tasks_interval": 10, "eval_tasks": ["piqa"], "zero_optimization": {"stage": 2}},
        ["ZeRO-2", "eval.py on the checkpoints"],
    ),
    (
        "tasks_during_training_can_run",
        {"eval_tasks_interval": 10, "eval_tasks": ["piqa"], "torch_compile": True},
        ["torch_compile: false"],
    ),
    ("profiled_steps_are_some", {"profile_step_start": 5, "profile_step_stop": 4}, ["4", "before the first, 5"]),
    ("validation_sets_have_names", {"validation_sets": {"the books": "a"}}, ["'the books'", "letters"]),
    ("validation_sets_have_names", {"validation_sets": {"test": "a"}}, ["'test'"]),
    ("validation_sets_have_names", {"validation_label_sets": {"books": "a"}}, ["books is no name"]),
    ("context_parts_are_equal", {"context_parallel_size": 3}, ["128", "2 x context_parallel_size 3 = 6", "126 or 132"]),
    (
        "combinations_are_legal",
        {"sequence_parallel": True, "model_parallel_size": 4, "context_parallel_size": 16, "seq_length": 96},
        ["sequence x tensor", "seq_length / context_parallel_size"],
    ),
    ("forwarded_variables_are_names", {"forward_environment": ["A", "HF_TOKEN=canary"]}, ["entry 2", "[HF_TOKEN]"]),
    ("forwarded_variables_are_names", {"forward_environment": ["RANK"]}, ["RANK cannot be forwarded"]),
    ("context_path_takes_parts", {"context_parallel_size": 2, "attention_path": "flex"}, ["flex", "parts", "auto"]),
]


@pytest.mark.parametrize(("rule", "changes", "parts"), BREAKING)
def test_a_broken_rule_says_what_and_what_instead(complaint, rule, changes, parts):
    text = complaint(**changes)
    for part in parts:
        assert part in text
    assert "canary" not in text
    assert "problems in the settings" not in text, "one mistake, one complaint"


def test_every_rule_is_broken_by_a_case():
    assert {rule.__name__ for rule in RULES} == {rule for rule, _, _ in BREAKING}


@pytest.mark.parametrize(
    "changes",
    [
        {"save": "a", "checkpoint_factor": 10},
        {"save": "a", "extra_save_iters": [0, 1]},
        {"fp16": {"enabled": True, "fp16": True}, "precision": "FP16"},
        {"zero_optimization": {"stage": 0}},
        {"pipe_partition_method": "uniform"},
        {"split": "1"},
        {"split": "0.9/0.1/0"},
        {"num_kv_heads": 2, "model_parallel_size": 2},
        {"gpt_j_tied": True, "gpt_j_residual": True},
    ],
)
def test_what_is_fine(load, changes):
    load(**changes)

"""The table of all keys of GPT-NeoX and SepLLM, held against the code: no accepted key is dead."""

import ast
import dataclasses
import json
from collections import defaultdict
from functools import cache
from pathlib import Path

import pytest

from megatron.neox_arguments import attention_rules, optimization_rules, validate
from megatron.neox_arguments.aliases import ALIASES
from megatron.neox_arguments.arguments import NeoXArgs
from megatron.neox_arguments.derived import Derived
from megatron.neox_arguments.keys import KEYS, Honoured, NoEffect, Restricted
from megatron.neox_arguments.refused import REFUSED, Refused
from tests.helpers.shared import shared_folder
from tests.megatron.neox_arguments.conftest import MINIMAL

REPOSITORY = Path(__file__).resolve().parents[3]
FACTS = json.loads((REPOSITORY / "tests" / "data" / "neox_keys.json").read_text())
OURS = {"separators", "attention_path", "timeout_minutes", "USE_FIXED_SEP_INTERVALs", "fixed_sep_intervals_list"} | {
    "data_kind",
    "data_order",
    "data_cache_path",
    "weight_by_num_tokens",
    "train_data_weight_changes",
    "log_sample_hashes",
    "attention_document_mask",
    "loss_average",
    "warm_start",
    "warm_start_fresh",
    "validation_sets",
    "validation_label_sets",
    "train_tokens",
    "train_epochs",
    "rampup_batch_size",
    "weight_decay_embeddings",
    "lr_decay_tokens",
    "lr_warmup_iters",
    "lr_warmup_tokens",
    "lr_wsd_decay_iters",
    "lr_wsd_decay_tokens",
    "lr_wsd_decay_style",
    "mup_base_width",
    "mup_base_head_dim",
}
OURS |= {"keep_checkpoints_every", "async_save", "auto_resume", "skip_nonfinite_steps", "skip_samples"}
OURS |= {"loss_spike_deviations", "loss_spike_action", "max_restarts", "min_hosts", "allow_different_versions"}
OURS |= {"forward_environment"}
OURS |= {"head_dim", "use_bias_in_attn_dense", "use_bias_in_mlp", "rope_scaling", "logits_soft_cap", "z_loss"}
OURS |= {"attention_logits_soft_cap", "context_parallel_size", "dense_layers"}
OURS |= {"peak_theoretical_tflops", "recompute_granularity", "torch_compile"}
OURS |= {"eval_num_fewshot", "eval_limit", "eval_batch_size", "eval_parallel", "eval_tasks_interval"}
OURS |= {"wandb_run_name", "use_comet", "comet_workspace", "comet_project", "comet_experiment_name"}
OURS |= {"comet_tags", "comet_others", "display"}
SETTINGS = "megatron/neox_arguments/"
# Read before the settings object exists, by the key's name.
BY_NAME = {"include", "exclude", "num_nodes"}


@dataclasses.dataclass
class Reads:
    """Which files read `args.KEY`, `derived.NAME`, mention "KEY", and call which functions."""

    arguments: dict[str, set[str]]
    derived: dict[str, set[str]]
    words: dict[str, set[str]]
    calls: dict[str, set[str]]


@cache
def reads() -> Reads:
    found = Reads(*(defaultdict(set) for _ in range(4)))
    scripts = [REPOSITORY / name for name in ("deepy.py", "train.py", "eval.py", "generate.py")]
    files = [path for folder in ("megatron", "sepllm", "tools") for path in (REPOSITORY / folder).rglob("*.py")]
    for path in [*files, *(script for script in scripts if script.exists())]:
        name = path.relative_to(REPOSITORY).as_posix()
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load):
                owner = node.value.id if isinstance(node.value, ast.Name) else getattr(node.value, "attr", "")
                if owner in ("args", "arguments"):
                    found.arguments[node.attr].add(name)
                if owner == "derived":
                    found.derived[node.attr].add(name)
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                found.words[node.value].add(name)
            elif isinstance(node, ast.Call):
                found.calls[getattr(node.func, "id", getattr(node.func, "attr", ""))].add(name)
    return found


def outside(files: set[str]) -> set[str]:
    return {file for file in files if not file.startswith(SETTINGS)}


def inside(files: set[str]) -> set[str]:
    return {file for file in files if file.startswith(SETTINGS)}


def dead(key: str, where: str) -> str | None:
    """Why `where` does not prove that the key is read; None when it does.

    Forms: a package; "derived.NAME" (computed in the settings, read outside); "sep_config()" and "deepspeed_config()"
    (read by that function, which is called outside).
    """
    code = reads()
    if where in ("sep_config()", "deepspeed_config()"):
        if not inside(code.arguments[key]):
            return "is not read inside the settings"
        return None if outside(code.calls[where.removesuffix("()")]) else f"{where} is called by nobody"
    if where.startswith("derived."):
        name = where.removeprefix("derived.")
        if not hasattr(Derived, name) and name not in {field.name for field in dataclasses.fields(Derived)}:
            return f"{where} does not exist"
        if not inside(code.arguments[key]):
            return "is not read inside the settings"
        return None if outside(code.derived[name]) else f"{where} is read by nobody"
    files = outside(code.words[key] if key in BY_NAME else code.arguments[key])
    if any(file.startswith(f"{where}/") for file in files):
        return None
    return f"args.{key} is not read in {where} but in {sorted(files)}; mend honoured.py"


def test_every_key_of_gpt_neox_is_in_the_table():
    assert len(FACTS) == 294
    assert {fact["key"] for fact in FACTS} | OURS | {"floating_window"} == set(KEYS)


def test_the_facts_are_those_of_the_reference():
    reference = json.loads(shared_folder("reference", "neox_config_keys.json").read_text())["keys"]
    assert [(k["key"], k["type"], k["default"]) for k in reference] == [
        (k["key"], k["type"], k["default"]) for k in FACTS
    ]
    samples = {key["key"]: key.get("sample_values", []) for key in reference if key["used_by_sepllm_sample_configs"]}
    assert samples == {key["key"]: key["samples"] for key in FACTS if "samples" in key}


def test_accepted_keys_are_the_fields_and_refused_keys_are_not():
    accepted = {key for key, kind in KEYS.items() if not isinstance(kind, Refused)}
    assert accepted == set(NeoXArgs.model_fields)
    assert not accepted & set(REFUSED)


def test_no_key_stands_twice():
    from megatron.neox_arguments.honoured import HONOURED
    from megatron.neox_arguments.keys import RESTRICTED

    kinds = [*HONOURED, *RESTRICTED, *REFUSED, *(key for key, kind in KEYS.items() if isinstance(kind, NoEffect))]
    assert sorted(kinds) == sorted(set(kinds))


@pytest.mark.parametrize("key", [key for key, kind in KEYS.items() if isinstance(kind, Honoured)])
def test_honoured_keys_are_read_where_the_table_says(key):
    where = KEYS[key].where
    assert not (why := dead(key, where)), f"{key}: {why}"


@pytest.mark.parametrize("key", [key for key, kind in KEYS.items() if isinstance(kind, Restricted)])
def test_restricted_keys_have_their_rule(key):
    rules = {
        rule.__name__: rule
        for rule in [*validate.RULES, *attention_rules.ATTENTION_RULES, *optimization_rules.OPTIMIZATION_RULES]
    }
    assert key in rules[KEYS[key].rule].__code__.co_names


def test_keys_without_effect_are_read_by_no_one_but_the_rules():
    for key, kind in KEYS.items():
        if isinstance(kind, NoEffect):
            assert kind.note
            assert not outside(reads().arguments[key]), f"{key} has an effect: {reads().arguments[key]}"


def test_refusals_say_why_and_what_instead(complaint):
    for key, refusal in REFUSED.items():
        text = complaint(**{key: "something else"})
        assert key in text and refusal.reason in text and refusal.instead in text and "test.yml:9" in text
        assert refusal.instead.endswith((".", ")")), key


@pytest.mark.parametrize("fact", FACTS, ids=lambda fact: fact["key"])
def test_the_default_of_gpt_neox_is_always_accepted(load, fact):
    needed = fact["default"] is None and fact["key"] in MINIMAL
    if not needed:
        load(**{fact["key"]: fact["default"]})


def test_blocks_that_are_off_ask_for_nothing(load, complaint):
    load(
        flops_profiler={"enabled": False, "profile_step": 1},
        activation_checkpointing={"partition_activations": False, "number_checkpoints": None},
        sparsity_config={},
    )
    assert "flops_profiler" in complaint(flops_profiler={"enabled": True})
    assert "activation_checkpointing" in complaint(activation_checkpointing={"partition_activations": True})


@pytest.mark.parametrize("key", ALIASES)
def test_aliases_lead_to_known_keys(key):
    assert ALIASES[key] in KEYS and key not in KEYS


SIZES = {
    "160m": {"num_layers": 12, "hidden_size": 768, "num_attention_heads": 12, "attention_config": [[["global"], 12]]},
    "1.4b": {"num_layers": 24, "hidden_size": 2048, "num_attention_heads": 32, "attention_config": [[["global"], 24]]},
}
PATHS = {f"{kind}_data_paths": ["corpus_text_document"] for kind in ("train", "valid", "test")}


@pytest.mark.parametrize("fact", [fact for fact in FACTS if "samples" in fact], ids=lambda fact: fact["key"])
def test_sample_values_of_sepllm_are_accepted(load, fact):
    """Each value of each key of the 27 original configurations, among the other values of such a configuration."""
    common = {f["key"]: f["samples"][0] for f in FACTS if f.get("samples")}
    modes = {"USE_ORIGINAL_FULL_ATTEN", "streamingLLM", "USE_BiPE"}
    lists = {"USE_PREFILL_LOCAL_WIN_SIZES_wrt_LAYERS", "USE_GENERATE_LOCAL_WIN_SIZES_wrt_LAYERS"}
    batch = {"train_micro_batch_size_per_gpu": 32, "gradient_accumulation_steps": 4}
    for value in fact["samples"] or [...]:
        changes = {**common, **dict.fromkeys(modes | lists, False), **PATHS, "vocab_file": "t.json", **batch}
        key = fact["key"]
        size = next(size for size in SIZES.values() if key not in size or size[key] == value)
        changes |= size
        if value is not ...:
            changes[key] = value
        if key == "USE_SEP_ATTN_KERNEL_ACCELERATOR" and value is False:
            changes["RECOMPILE_SEP_ATTN_KERNEL"] = False
        if key in modes - {"USE_BiPE"}:
            changes |= {"USE_SEP_ATTN_KERNEL_ACCELERATOR": False, "RECOMPILE_SEP_ATTN_KERNEL": False}
        assert changes["USE_SEP_ATTN_KERNEL_ACCELERATOR"] is not None
        args = load(processes=8, **changes)
        assert args.derived.precision == "fp16"


ORIGINAL_STYLE = """{
  # parallelism settings
  "pipe-parallel-size": 1,
  "model-parallel-size": 1,

  "num-layers": 12,
  "hidden-size": 768,
  "num-attention-heads": 12,
  "seq-length": 2048,
  "max-position-embeddings": 2048,
  "pos-emb": "rotary",
  "rotary-pct": 0.25,
  "no-weight-tying": true,
  "gpt-j-residual": true,
  "output-layer-parallelism": "column",
  "attention-config": [[["global"], 12]],
  "scaled-upper-triang-masked-softmax-fusion": false,
  "scaled-masked-softmax-fusion": true,
  "bias-gelu-fusion": true,
  "init_method": "small_init",
  "output_layer_init_method": "wang_init",

  "optimizer": {
    "type": "Adam",
    "params": {"lr": 0.0006, "betas": [0.9, 0.95], "eps": 1.0e-8,}
  },
  "min_lr": 0.00006,
  "zero_optimization": {
    "stage": 1, "allgather_partitions": True, "allgather_bucket_size": 500000000, "overlap_comm": True,
    "reduce_scatter": True, "reduce_bucket_size": 500000000, "contiguous_gradients": True, "cpu_offload": False
  },
  "fp16": {"fp16": true, "enabled": true, "loss_scale": 0, "loss_scale_window": 1000, "initial_scale_power": 12,
           "hysteresis": 2, "min_loss_scale": 1,},
  "train_micro_batch_size_per_gpu": 32,
  "gradient_accumulation_steps": 4,
  "data-impl": "mmap",
  "num_workers": 1,
  "checkpoint-activations": true,
  "partition-activations": true,
  "synchronize-each-layer": true,
  "gradient_clipping": 1.0,
  "weight-decay": 0.1,
  "hidden-dropout": 0,
  "attention-dropout": 0,
  "train-iters": 143000,
  "lr-decay-iters": 143000,
  "distributed-backend": "nccl",
  "lr-decay-style": "cosine",
  "warmup": 0.01,
  "checkpoint-factor": 1000,
  "extra-save-iters": [0, 1, 2, 4, 8, 16, 32, 64, 128, 256, 512],
  "eval-interval": 4000,
  "eval-iters": 10,
  "log-interval": 10,
  "steps_per_print": 10,
  "wall_clock_breakdown": true,
  "tokenizer-type": "HFTokenizer",
  "launcher": "pdsh",
  "separator_token_ids": [15, 13, 32, 2, 28, 27, 209, 186, 187],
  "PADDING_ID": 0,
  "prefill_local_window_size": 64,
  "generate_local_window_size": 64,
  "init_tok_max_idx": 2,
  "USE_ORIGINAL_FULL_ATTEN": false,
  "streamingLLM": false,
  "USE_SEP_ATTN_KERNEL_ACCELERATOR": true,
  "RECOMPILE_SEP_ATTN_KERNEL": true,
  "BATCH_ADAPTIVE_INIT_POS": false,
  "PRINT_KV_RATIO": true,
  "print_ratio_intervals": 8000,
  "USE_BiPE": false,
}
"""


def test_a_configuration_in_the_original_style_loads_unchanged():
    from megatron.neox_arguments.load import arguments_from_texts

    args = arguments_from_texts([("160m.yml", ORIGINAL_STYLE)], world_size=8)
    assert args.derived.train_batch_size == 1024
    assert args.derived.windows == (64,) * 12
    assert args.source_of("launcher") == "160m.yml:58"

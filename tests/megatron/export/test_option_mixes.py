"""Every option of a model meets every option of another kind in some export that is proven equal.

The proof is the exporter's own: logits within 1e-4 in fp32, the same greedy tokens with a cache, on real text.
What was not rounded is also imported again, proven equal by the importer, with the same tensors bit for bit.
"""

from pathlib import Path
from typing import Any

import pytest
import torch

from megatron.checkpointing.reader import CheckpointReader
from megatron.export.export import export_checkpoint, open_source
from megatron.importing.import_hf import import_hf_model
from tests.helpers.pairwise import Case, pairwise
from tests.megatron.export.tiny_checkpoint import write_checkpoint, write_tokenizer

YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32}
LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "original_max_position_embeddings": 24,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
}
SEPLLM: dict[str, Any] = {}
WINDOWS = {"USE_PREFILL_LOCAL_WIN_SIZES_wrt_LAYERS": True, "prefill_loc_win_size_list": [96, 8, 20]}
BIPE = {"USE_BiPE": True, "BiPE_seps": [12, 14]}  # "," and "."
OPTIONS: dict[str, dict[str, dict[str, Any]]] = {
    "architecture": {"sepllm_gpt_neox": {}, "sepllm_llama": {}},
    "positions": {
        "rotary": {"rotary_pct": 1.0, "rotary_emb_base": 500},
        "yarn": {"rope_scaling": YARN},
        "llama3": {"rope_scaling": LLAMA3},
        "learned": {"pos_emb": "learned", "opt_pos_emb_offset": 2},
        "sinusoidal": {"pos_emb": "sinusoidal"},
        "alibi": {"pos_emb": "alibi"},
        "bipe rotary": BIPE,
        "bipe alibi": BIPE | {"pos_emb": "alibi"},
    },
    "mode": {
        "sepllm": SEPLLM,
        "windows": WINDOWS,
        "streaming": {"streamingLLM": True},
        "fixed": {"USE_FIXED_SEP_INTERVALs": True, "fixed_sep_intervals_list": [4, 5, 6]},
        "full": {"USE_ORIGINAL_FULL_ATTEN": True},
    },
    "norm": {
        "layernorm": {},
        "without bias": {"use_bias_in_norms": False},
        "rmsnorm": {"norm": "rmsnorm"},
        "scalenorm": {"norm": "scalenorm"},
    },
    "mlp": {
        "gelu of tanh": {"bias_gelu_fusion": True},
        "softsign, no bias": {"activation": "softsign", "use_bias_in_mlp": False},
        "llama": {"mlp_type": "llama", "activation": "silu"},
        "geglu": {"activation": "geglu"},
        "glu": {"activation": "glu"},
    },
    "heads": {
        "each its own": {},
        "two groups": {"num_kv_heads": 2},
        "one key, wide": {"num_kv_heads": 1, "head_dim": 12},
    },
    "projections": {
        "biases": {},
        "qk norm": {"use_qk_layernorm": True, "use_bias_in_attn_linear": False},
        "qkv biases": {"use_bias_in_attn_dense": False},
    },
    "residual": {
        "parallel": {},
        "one norm": {"gpt_j_tied": True},
        "sequential": {"gpt_j_residual": False},
    },
    "head": {"own": {}, "tied": {"no_weight_tying": False}},
    "precision": {"fp32": {}, "bf16": {}, "fp16": {}},
    "softmax": {
        "softmax": {},
        "sa": {"USE_SA_SOFTMAX": True, "USE_SEP_ATTN_KERNEL_ACCELERATOR": False},
        "no_denominator": {"USE_SA_SOFTMAX_NO_DENO": True, "USE_SEP_ATTN_KERNEL_ACCELERATOR": False},
    },
    "besides": {
        "nothing": {},
        "soft cap": {"logits_soft_cap": 20.0},
        "muP": {"use_mup": True, "mup_base_width": 16, "mup_output_temp": 0.5, "mup_embedding_mult": 3.0},
        "documents": {"attention_document_mask": True},
    },
}


def allowed(case: Case) -> bool:
    """What the settings let stand together: Self-Adjusting softmax and BiPE are not for every mode."""
    mode, softmax = case.get("mode", "sepllm"), case.get("softmax", "softmax")
    if softmax != "softmax" and mode not in ("sepllm", "windows"):
        return False
    return not (mode == "streaming" and case.get("positions", "").startswith("bipe"))


CASES = pairwise({factor: list(options) for factor, options in OPTIONS.items()}, allowed)


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES, ids=[", ".join(case.values()) for case in CASES])
def test_every_pair_of_options_is_exported_exactly(tmp_path: Path, tokenizer: Path, case: Case) -> None:
    changes = {key: value for factor, option in case.items() for key, value in OPTIONS[factor][option].items()}
    write_checkpoint(tmp_path / "save", {**changes, "vocab_file": str(tokenizer)})
    report = export_checkpoint(
        open_source(tmp_path / "save"),
        tmp_path / "out",
        architecture=case["architecture"],
        precision=case["precision"],
    )
    assert report["verification"]["passed"]
    assert report["verification"]["max_logit_difference"] < 1e-4
    assert report["architecture"] == case["architecture"]
    if case["besides"] != "muP" and case["precision"] == "fp32":
        again = CheckpointReader(import_hf_model(tmp_path / "out", tmp_path / "again").checkpoint)
        ours = open_source(tmp_path / "save").reader
        assert again.names() == ours.names()
        assert all(torch.equal(again.weight(name), ours.weight(name)) for name in again.names())


@pytest.fixture(scope="session")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tokenizer(tmp_path_factory.mktemp("tokenizer") / "tokenizer.json")

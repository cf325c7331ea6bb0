"""A checkpoint becomes a folder that stock transformers runs as the same model, or no folder at all."""

import json
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from megatron.checkpointing.reader import CheckpointReader
from megatron.errors import CheckpointError, SettingsError
from megatron.export.export import export_checkpoint, open_source
from megatron.export.verify import sample_text
from megatron.importing.import_hf import import_hf_model
from tests.megatron.export.tiny_checkpoint import write_checkpoint

FULL = {"USE_ORIGINAL_FULL_ATTEN": True}
FORMS = {
    "parallel, untied": {},
    "sequential, tied, gelu of tanh": {"gpt_j_residual": False, "no_weight_tying": False, "bias_gelu_fusion": True},
    "windows per layer": {
        "USE_PREFILL_LOCAL_WIN_SIZES_wrt_LAYERS": True,
        "prefill_loc_win_size_list": [96, 8, 20],
    },
    "streaming": {"streamingLLM": True, "init_tok_max_idx": 3},
    "fixed": {"USE_FIXED_SEP_INTERVALs": True, "fixed_sep_intervals_list": [4, 5, 6]},
    "full": FULL,
    "learned positions, no attention bias": {"pos_emb": "learned", "use_bias_in_attn_linear": False},
    "no positions, relu": {"pos_emb": "none", "activation": "relu"},
    "all rotated, other base": {"rotary_pct": 1.0, "rotary_emb_base": 500},
    "muP": {
        "use_mup": True,
        "mup_base_width": 8,
        "mup_base_head_dim": 2,
        "mup_attn_temp": 0.7,
        "mup_output_temp": 0.5,
        "mup_embedding_mult": 3.0,
    },
    "bytes as tokens": {"tokenizer_type": "CharLevelTokenizer"},
    "ntk": {"rope_scaling": {"rope_type": "ntk", "factor": 2.0}},
    "linear": {"rope_scaling": {"rope_type": "linear", "factor": 2.0}},
}


@pytest.mark.parametrize("form", list(FORMS))
def test_the_folder_is_the_same_model(tmp_path: Path, form: str) -> None:
    """The exporter's own proof: logits within 1e-4, greedy tokens and token ids equal."""
    write_checkpoint(tmp_path / "save", FORMS[form])
    report = export_checkpoint(open_source(tmp_path / "save"), tmp_path / "out")
    proof = report["verification"]
    assert proof["passed"]
    assert proof["max_logit_difference"] < 1e-4
    assert proof["greedy_tokens_compared"] >= 72
    assert max(proof["lengths"]) == 96
    assert json.loads((tmp_path / "out" / "export_report.json").read_text())["verification"] == json.loads(
        json.dumps(proof)
    )
    assert not list(tmp_path.glob("out.*"))


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_precision_is_the_one_asked_for(tmp_path: Path, precision: str) -> None:
    write_checkpoint(tmp_path / "save", tp=2)
    report = export_checkpoint(open_source(tmp_path / "save"), tmp_path / "out", precision=precision)
    assert report["verification"]["passed"]
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "out", trust_remote_code=True)
    assert {parameter.dtype for parameter in model.parameters()} == {
        {"bf16": torch.bfloat16, "fp16": torch.float16}[precision]
    }


def test_auto_keeps_the_precision_of_training(tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "save", {"bf16": {"enabled": True}})
    assert export_checkpoint(open_source(tmp_path / "save"), tmp_path / "out", verify=False)["precision"] == "bf16"


def test_stock_gpt_neox_for_full_attention(tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "save", FULL)
    report = export_checkpoint(open_source(tmp_path / "save"), tmp_path / "out", architecture="neox")
    assert report["verification"]["passed"]
    assert not list((tmp_path / "out").glob("*.py"))
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    assert type(model).__name__ == "GPTNeoXForCausalLM"
    write_checkpoint(tmp_path / "sparse")
    with pytest.raises(SettingsError, match="attention mode sepllm"):
        export_checkpoint(open_source(tmp_path / "sparse"), tmp_path / "out2", architecture="neox")
    assert not list(tmp_path.glob("out2*"))


GATED = {"mlp_type": "llama", "norm": "rmsnorm", "gpt_j_residual": False, "rotary_pct": 1.0}
STOCK = {
    "llama": {"use_bias_in_attn_linear": False, "num_kv_heads": 2, "rotary_emb_base": 500},
    "llama, scaled": {
        "use_bias_in_attn_linear": False,
        "head_dim": 12,
        "rope_scaling": {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32},
    },
    "mistral": {"use_bias_in_attn_linear": False, "no_weight_tying": False},
    "neox, muP": {
        "mlp_type": "regular",
        "norm": "layernorm",
        "use_mup": True,
        "mup_base_width": 8,
        "mup_attn_temp": 0.7,
        "mup_embedding_mult": 3.0,
    },
    "qwen3": {"use_qk_layernorm": True, "use_bias_in_attn_linear": False, "num_kv_heads": 1},
    "neox": {"mlp_type": "regular", "norm": "layernorm", "rotary_pct": 0.5},
    "neox, scaled": {
        "mlp_type": "regular",
        "norm": "layernorm",
        "rotary_pct": 0.5,
        "rope_scaling": {"rope_type": "linear", "factor": 2.0},
    },
}


@pytest.mark.parametrize("kind", list(STOCK))
def test_stock_classes_for_full_attention_and_back(tmp_path: Path, kind: str) -> None:
    """Proven by the exporter; and what importing the folder gives is the same model again, tensor for tensor."""
    name = kind.split(",")[0]
    write_checkpoint(tmp_path / "save", FULL | GATED | {"activation": "silu"} | STOCK[kind])
    source = open_source(tmp_path / "save")
    report = export_checkpoint(source, tmp_path / "out", architecture=name)
    assert report["verification"]["passed"]
    assert not list((tmp_path / "out").glob("*.py"))
    if source.args.use_mup:  # its factors are in the weights now
        return
    again = CheckpointReader(import_hf_model(tmp_path / "out", tmp_path / "again").checkpoint)
    assert again.names() == source.reader.names()
    assert all(torch.equal(again.weight(tensor), source.reader.weight(tensor)) for tensor in again.names())


def test_qwen2_needs_qwens_own_tokenizer(tmp_path: Path) -> None:
    """transformers 5 splits the text of every qwen2 folder as Qwen's tokenizer does: the weights are right, ids not."""
    write_checkpoint(tmp_path / "save", FULL | GATED | {"activation": "silu", "use_bias_in_attn_dense": False})
    with pytest.raises(CheckpointError, match=r"tokenizer equal: False.*use --architecture sepllm_llama"):
        export_checkpoint(open_source(tmp_path / "save"), tmp_path / "out", architecture="qwen2")
    proof = json.loads((tmp_path / "out.failed" / "export_report.json").read_text())["verification"]
    assert proof["max_logit_difference"] < 1e-4 and proof["greedy_tokens_equal"]
    assert export_checkpoint(open_source(tmp_path / "save"), tmp_path / "out")["architecture"] == "sepllm_llama"


def test_everything_about_the_rule_is_explicit(tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "save")
    export_checkpoint(open_source(tmp_path / "save"), tmp_path / "out", verify=False)
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out", trust_remote_code=True)
    separators = [tokenizer.convert_tokens_to_ids(token) for token in (".", ",", "Ċ")]
    assert config["sepllm"] == {
        "mode": "sepllm",
        "separator_token_ids": separators,
        "init_tokens": 3,
        "window": [12, 12, 12],
        "interval": None,
        "max_separators": None,
        "capacity": None,
        "init_per_document": True,
    }
    assert (config["rotary_pct"], config["rope_parameters"]["partial_rotary_factor"]) == (0.5, 0.5)
    settings = json.loads((tmp_path / "out" / "tokenizer_config.json").read_text())
    assert settings["tokenizer_class"] == "PreTrainedTokenizerFast"
    assert tokenizer.decode(tokenizer(sample_text()[:500])["input_ids"]) == sample_text()[:500]
    generation = json.loads((tmp_path / "out" / "generation_config.json").read_text())
    assert generation["suppress_tokens"] == [301, 302, 303]
    assert "the 12 nearest tokens" in (tmp_path / "out" / "README.md").read_text()


def test_a_folder_that_is_not_the_model_never_appears(tmp_path: Path) -> None:
    """Settings that describe another model than the one trained: the proof fails, the attempt is kept aside."""
    write_checkpoint(tmp_path / "save")
    source = open_source(tmp_path / "save")
    wrong = tmp_path / "wrong.yml"
    wrong.write_text(source.args.texts[0][1].replace('"rotary_pct": 0.5', '"rotary_pct": 0.25'))
    mismatched = open_source(tmp_path / "save", [str(wrong)])
    assert mismatched.args.rotary_pct == 0.25
    good = export_checkpoint(source, tmp_path / "out")
    assert good["verification"]["passed"]
    # The model that proves is built from one set of settings, the folder from another.
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("megatron.export.export.hf_config", _config_of(mismatched))
        with pytest.raises(CheckpointError, match=r"logits differ by .*out\.failed"):
            export_checkpoint(source, tmp_path / "out")
    assert (tmp_path / "out.failed" / "export_report.json").is_file()
    assert json.loads((tmp_path / "out" / "config.json").read_text())["rotary_pct"] == 0.5


def test_config_files_may_stand_on_others_and_missing_ones_are_named(tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "save")
    text = open_source(tmp_path / "save").args.texts[0][1]
    (tmp_path / "base.yml").write_text(text.replace('"rotary_pct": 0.5', '"rotary_pct": 0.25'))
    (tmp_path / "mine.yml").write_text("based_on: base.yml\nseed: 99\n")
    args = open_source(tmp_path / "save", [str(tmp_path / "mine.yml")]).args
    assert (args.rotary_pct, args.seed) == (0.25, 99)
    with pytest.raises(SettingsError, match=r"mien\.yml: no such file\. Did you mean 'mine\.yml'"):
        open_source(tmp_path / "save", [str(tmp_path / "mien.yml")])


def _config_of(other):
    from megatron.export.hf_config import hf_config
    from megatron.inference.load import inference_config

    config = inference_config(other.args, other.reader.padded_vocab_size, other.tokenizer)
    return lambda _, *rest: hf_config(config, *rest)


def test_what_is_in_the_way_is_not_overwritten(tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "save")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.tex").write_text("...")
    with pytest.raises(SettingsError, match="no exported model"):
        export_checkpoint(open_source(tmp_path / "save"), tmp_path / "out")
    assert (tmp_path / "out" / "thesis.tex").is_file()


def test_newest_checkpoint_of_a_parent_folder_and_missing_ones(tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "save", iteration=7)
    write_checkpoint(tmp_path / "save", iteration=30)
    assert open_source(tmp_path / "save").reader.iteration == 30
    assert open_source(tmp_path / "save" / "global_step7").reader.iteration == 7
    with pytest.raises(CheckpointError, match="does not exist"):
        open_source(tmp_path / "nowhere")
    with pytest.raises(SettingsError, match=r"missing\.yml"):
        open_source(tmp_path / "save", [str(tmp_path / "missing.yml")])


def test_another_tokenizer_is_refused_even_without_verification(tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "save")
    vocabulary = tmp_path / "save" / "tokenizer.json"
    content = json.loads(vocabulary.read_text())
    content["model"]["merges"].pop()
    vocabulary.write_text(json.dumps(content))
    with pytest.raises(CheckpointError, match="was trained with another tokenizer"):
        export_checkpoint(open_source(tmp_path / "save"), tmp_path / "out", verify=False)
    assert not (tmp_path / "out").exists()

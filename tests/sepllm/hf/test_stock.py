"""An exported model as the stock class: the same logits without a rule, streaming with the rule from outside."""

from pathlib import Path

import pytest
import torch

from megatron.export.export import export_checkpoint, open_source
from sepllm.config import SepConfig
from sepllm.errors import UnsupportedError
from sepllm.hf.stock import has_own_rule, stock_model
from sepllm.streaming.score import stream_nll
from tests.megatron.export.tiny_checkpoint import write_checkpoint
from tests.sepllm.streaming.tiny_models import tiny_model


def exported(folder: Path, **changes: object) -> object:
    from transformers import AutoModelForCausalLM

    export_checkpoint(open_source(write_checkpoint(folder / "save", dict(changes))), folder / "model", verify=False)
    return AutoModelForCausalLM.from_pretrained(folder / "model", trust_remote_code=True).eval()


@torch.inference_mode()
def test_weights_are_the_same_and_the_rule_is_gone(tmp_path: Path) -> None:
    ours = exported(tmp_path)
    stock = stock_model(ours)
    assert has_own_rule(ours) and not has_own_rule(stock) and stock_model(stock) is stock
    ids = torch.randint(0, 300, (2, 60))
    dense = exported(tmp_path / "full", USE_ORIGINAL_FULL_ATTEN=True)
    assert (stock(ids).logits - dense(ids).logits).abs().max() < 1e-4
    assert (stock(ids).logits - ours(ids).logits).abs().max() > 1e-3


def test_streaming_of_an_exported_model_is_its_own_rule(tmp_path: Path) -> None:
    """With text positions, the rule from outside equals the rule inside."""
    ours = exported(tmp_path)
    rule = ours.config.separator_rule()
    ids = torch.randint(0, 300, (90,))
    with torch.inference_mode():
        logits = ours(ids[None]).logits[0, :-1]
    expected = torch.nn.functional.cross_entropy(logits, ids[1:], reduction="none")
    config = SepConfig(separators=rule.separators, init_tokens=rule.init_tokens, window=rule.window_for(0))
    assert (stream_nll(ours, ids, config, "every_token", "auto", "text") - expected).abs().max() < 1e-4


LLAMA = {"norm": "rmsnorm", "mlp_type": "llama", "activation": "silu", "gpt_j_residual": False, "rotary_pct": 1.0}


@pytest.mark.parametrize("changes", [{"use_qk_layernorm": True}, {}], ids=["qwen3", "llama"])
def test_models_named_as_llamas_too(tmp_path: Path, changes: dict) -> None:
    """An epsilon and a rotary base far from the defaults: losing them would show."""
    odd = {"rms_norm_epsilon": 0.02, "rotary_emb_base": 300, "num_kv_heads": 2, "use_bias_in_attn_linear": False}
    settings = LLAMA | odd | changes
    ours = exported(tmp_path, **settings)
    assert ours.config.model_type == "sepllm_llama"
    dense = exported(tmp_path / "full", USE_ORIGINAL_FULL_ATTEN=True, **settings)
    ids = torch.randint(0, 300, (2, 60))
    assert (stock_model(ours)(ids).logits - dense(ids).logits).abs().max() < 1e-4


@pytest.mark.parametrize(
    "changes",
    [
        {"pos_emb": "learned"},
        {"rope_scaling": {"rope_type": "linear", "factor": 1.01}},
        {"logits_soft_cap": 1000.0},
        {"use_mup": True, "mup_base_width": 16},
        LLAMA | {"gpt_j_residual": True},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_options_that_stock_models_lack_are_refused(tmp_path: Path, changes: dict) -> None:
    with pytest.raises(UnsupportedError, match=r"other weights|something else"):
        stock_model(exported(tmp_path, **changes))


def test_stock_models_stay_what_they_are() -> None:
    assert stock_model(model := tiny_model("llama")) is model

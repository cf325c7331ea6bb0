"""Weights counted from the settings equal those of the layers, on every rank; stages are as DeepSpeed deals them."""

from itertools import pairwise
from typing import Any

import pytest
import torch
import yaml
from deepspeed.runtime.utils import partition_balanced

from megatron.model.config import model_config_from_args
from megatron.model.embedding import FinalNorm, Head, PositionEmbedding, WordEmbedding
from megatron.model.transformer_layer import TransformerLayer
from megatron.mpu.parallel_state import TensorParallel
from megatron.neox_arguments.load import arguments_from_texts
from megatron.planning.model import Model, Weight, stages_of
from sepllm.attention.rule import keep_mask
from tests.helpers.tiny_run import tiny_settings

KINDS: dict[str, dict[str, Any]] = {
    "pythia": {},
    "gpt2": {"pos_emb": "learned", "gpt_j_residual": False, "no_weight_tying": False},
    "llama": {"norm": "rmsnorm", "mlp_type": "llama", "num_kv_heads": 2, "intermediate_size": 96,
              "use_bias_in_attn_linear": False, "use_bias_in_mlp": False},
    "qwen": {"use_qk_layernorm": True, "head_dim": 16, "norm": "rmsnorm", "use_bias_in_attn_dense": False},
    "one norm": {"gpt_j_tied": True, "use_bias_in_norms": False},
}  # fmt: skip


def settings_of(**changes: Any) -> Any:
    text = yaml.safe_dump(tiny_settings("unused", **changes))
    return arguments_from_texts([("tiny.yml", text)])


def sizes(weights: list[Weight]) -> list[int]:
    return sorted(weight.elements for weight in weights)


@pytest.mark.parametrize("tp", [1, 2])
@pytest.mark.parametrize("kind", KINDS)
def test_weights_are_those_of_the_layers(kind: str, tp: int) -> None:
    args = settings_of(**KINDS[kind])
    model = Model(args, 300)
    config = model_config_from_args(args, model.padded(tp), separator_ids=(1, 2))
    place = TensorParallel(rank=0, size=tp)
    with torch.device("meta"):
        layer = TransformerLayer(config, 0, place)
        first = [*WordEmbedding(config, place).parameters(), *PositionEmbedding(config, place).parameters()]
        last = [*FinalNorm(config, place).parameters()]
        last += [] if config.tied_embeddings else [*Head(config, place).parameters()]
    assert sizes(model.layer_weights(tp)) == sorted(weight.numel() for weight in layer.parameters())
    assert sizes(model.first_weights(tp)) == sorted(weight.numel() for weight in first)
    assert sizes(model.last_weights(tp, alone=False)) == sorted(weight.numel() for weight in last)
    vectors = [weight.elements for weight in model.layer_weights(1) if not weight.matrix]
    assert len(vectors) == sum(weight.dim() == 1 for weight in layer.parameters())


def test_a_tied_head_on_another_stage_has_a_copy() -> None:
    model = Model(settings_of(no_weight_tying=False), 300)
    table = model.padded(1) * model.hidden_size
    whole = sum(sizes(model.stage_weights(0, [4], 1)))
    parts = sum(sum(sizes(model.stage_weights(stage, [2, 2], 1))) for stage in range(2))
    assert parts == whole + table


@pytest.mark.parametrize("layers", [4, 7, 12, 13])
@pytest.mark.parametrize("pp", [1, 2, 3, 4])
def test_stages_as_deepspeed_deals_them(layers: int, pp: int) -> None:
    weights = [0, 0, *[1] * layers, 0, 0]
    parts = partition_balanced(weights, pp)
    assert stages_of(layers, pp) == [sum(weights[a:b]) for a, b in pairwise(parts)]


@pytest.mark.parametrize("window", [1, 5, 12, 64])
@pytest.mark.parametrize("mode", [{}, {"streamingLLM": True}, {"USE_ORIGINAL_FULL_ATTEN": True}])
def test_kept_pairs_are_those_of_the_rule(window: int, mode: dict[str, Any]) -> None:
    """Without separators exactly; with them on the mean over random texts."""
    per_layer = {"prefill_loc_win_size_list": None, "USE_PREFILL_LOCAL_WIN_SIZES_wrt_LAYERS": None}
    words = {"prefill_local_window_size": window, "separators": None, "separator_token_ids": [9]}
    args = settings_of(**per_layer, **words, **mode)
    draw = torch.Generator().manual_seed(1)
    tokens = torch.where(torch.rand(400, 64, generator=draw) < 0.25, 9, 1)
    kept = keep_mask(args.sep_config(), tokens).sum() / 400
    assert Model(args, 300, separator_share=0.25).kept_pairs() / 4 == pytest.approx(float(kept), rel=0.01)

"""Names and layouts of Hugging Face tensors: both directions are each other's inverse."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from megatron.export.tensor_map import TensorMap
from sepllm.hf.families import FAMILIES

LLAMA = TensorMap("llama", 4, 2)


@given(st.integers(1, 4), st.integers(1, 4), st.integers(1, 3), st.booleans())
def test_fused_projections_come_apart_by_head(groups: int, per_group: int, head_dim: int, is_bias: bool) -> None:
    tensor_map = TensorMap("llama", groups * per_group, groups)
    name = f"layers.7.attention.query_key_value.{'bias' if is_bias else 'weight'}"
    rows = groups * (per_group + 2) * head_dim
    fused = torch.randn(rows) if is_bias else torch.randn(rows, 5)
    parts = tensor_map.split(name, fused)
    query, key, value = (parts[theirs] for theirs in tensor_map.names(name))
    row = 0
    for group in range(groups):
        for source, first in (
            *((query, (group * per_group + head) * head_dim) for head in range(per_group)),
            (key, group * head_dim),
            (value, group * head_dim),
        ):
            assert torch.equal(fused[row : row + head_dim], source[first : first + head_dim])
            row += head_dim
    assert torch.equal(tensor_map.join(name, [query, key, value]), fused)
    shapes = tensor_map.shapes(name, fused.shape)
    assert shapes == {theirs: tuple(part.shape) for theirs, part in parts.items()}


@pytest.mark.parametrize("family", FAMILIES)
def test_every_name_of_the_family_is_found_once(family: str) -> None:
    tensor_map = TensorMap(family, 4, 4)
    modules = ["input_layernorm", "post_attention_layernorm", "attention.query_key_value", "attention.dense"]
    modules += ["attention.query_layernorm", "attention.key_layernorm"]
    ours = [f"layers.3.{module}.weight" for module in modules]
    ours += ["embedding.word_embeddings.weight", "final_norm.weight", "head.final_linear.weight"]
    for mlp in (("w1", "w2", "w3"), ("dense_h_to_4h", "dense_4h_to_h")):
        these = ours + [f"layers.3.mlp.{module}.weight" for module in mlp]
        theirs = [name for our in these for name in tensor_map.names(our)]
        assert len(set(theirs)) == len(theirs)


@pytest.mark.parametrize("name", ["layers.0.mlp.w4.weight", "layers.0.attention.query.weight", "other"])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_tensor_without_a_place_is_an_error(family: str, name: str) -> None:
    with pytest.raises(KeyError):
        TensorMap(family, 4, 4).names(name)

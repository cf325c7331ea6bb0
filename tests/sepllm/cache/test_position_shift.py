"""Turning keys: against transformers' own rotation, and places inside a cache against sorting by hand."""

import pytest
import torch
from transformers import GPT2Config, GPT2Model, GPTNeoXConfig, GPTNeoXModel, LlamaConfig, LlamaModel
from transformers.models.gpt_neox.modeling_gpt_neox import apply_rotary_pos_emb as neox_rotation
from transformers.models.llama.modeling_llama import apply_rotary_pos_emb as llama_rotation

from sepllm.cache.position_shift import cache_places, inverse_frequencies, rotate
from sepllm.errors import UnsupportedError

SIZES = {"vocab_size": 40, "hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}


@pytest.mark.parametrize("family", ["llama", "gpt_neox"])
def test_equals_the_rotation_of_transformers(family: str) -> None:
    if family == "llama":
        model, rotation = LlamaModel(LlamaConfig(**SIZES)), llama_rotation
    else:
        model, rotation = GPTNeoXModel(GPTNeoXConfig(**SIZES, rotary_pct=0.5)), neox_rotation
    states = torch.randn(2, 3, 5, 16, generator=torch.Generator().manual_seed(0))
    positions = torch.tensor([[0, 1, 7, 300, 4000], [5, 4, 3, 2, 1]])
    expected, _ = rotation(states, states, *model.rotary_emb(states, positions))
    frequencies = inverse_frequencies(model)
    turned = rotate(states, positions, frequencies)
    assert (turned - expected).abs().max() < 2e-3  # fp32 angles of 4000: theirs are the coarse ones
    near = rotate(states, positions.clamp(max=300), frequencies)
    expected, _ = rotation(states, states, *model.rotary_emb(states, positions.clamp(max=300)))
    assert (near - expected).abs().max() < 1e-4
    assert (rotate(turned, -positions, frequencies) - states).abs().max() < 1e-5


def test_low_precision_is_turned_in_float32() -> None:
    states = torch.randn(1, 1, 6, 8, generator=torch.Generator().manual_seed(0))
    frequencies = torch.tensor([1.0, 0.3, 0.1, 0.01])
    exact = rotate(states.bfloat16().float(), torch.arange(6), frequencies)
    assert torch.equal(rotate(states.bfloat16(), torch.arange(6), frequencies), exact.bfloat16())


def test_places_count_cached_tokens_only() -> None:
    position = torch.tensor([[9, 0, -1, 4], [-1, -1, 7, 3], [2, 1, 0, 3]])
    assert cache_places(position).tolist() == [[2, 0, 0, 1], [0, 0, 1, 0], [2, 1, 0, 3]]


def test_models_that_cannot_be_shifted_are_refused() -> None:
    gpt2 = GPT2Model(GPT2Config(n_embd=32, n_layer=1, n_head=2, vocab_size=40, n_positions=32))
    with pytest.raises(UnsupportedError, match="no rotary embedding"):
        inverse_frequencies(gpt2)
    llama = LlamaModel(LlamaConfig(**SIZES, rope_scaling={"rope_type": "dynamic", "factor": 2.0}))
    with pytest.raises(UnsupportedError, match="'dynamic'"):
        inverse_frequencies(llama)

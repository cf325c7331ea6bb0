"""Stretched rotary frequencies against those that transformers computes from the same entries."""

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sepllm.attention.positions import rotary_cos_sin
from sepllm.attention.rope_scaling import RopeScaling, rotary_frequencies

ORIGINAL = 2048
KINDS: dict[str, tuple[RopeScaling, dict[str, Any]]] = {
    "linear": (RopeScaling("linear", 4.0, ORIGINAL), {"rope_type": "linear", "factor": 4.0}),
    # Dynamic scaling by f of a text r times as long is the fixed kind with the factor f r - (f - 1); here r = 2.
    "ntk": (RopeScaling("ntk", 5.0, ORIGINAL), {"rope_type": "dynamic", "factor": 4.0}),
    "yarn": (RopeScaling("yarn", 8.0, ORIGINAL), {"rope_type": "yarn", "factor": 8.0}),
    "yarn with bounds and sharpness": (
        RopeScaling("yarn", 40.0, ORIGINAL, attention_factor=1.3, beta_fast=20.0, beta_slow=2.0, truncate=False),
        {"rope_type": "yarn", "factor": 40.0, "attention_factor": 1.3, "beta_fast": 20.0, "beta_slow": 2.0}
        | {"truncate": False},
    ),
    "llama3": (
        RopeScaling("llama3", 8.0, ORIGINAL),
        {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0},
    ),
    "llama3 with bounds": (
        RopeScaling("llama3", 32.0, ORIGINAL, low_frequency=2.0, high_frequency=3.0),
        {"rope_type": "llama3", "factor": 32.0, "low_freq_factor": 2.0, "high_freq_factor": 3.0},
    ),
}


@pytest.mark.parametrize("base", [10000.0, 500000.0])
@pytest.mark.parametrize(("head_dim", "pct"), [(128, 1.0), (64, 0.25)])
@pytest.mark.parametrize("kind", KINDS)
def test_frequencies_equal_those_of_transformers(kind: str, head_dim: int, pct: float, base: float) -> None:
    scaling, entries = KINDS[kind]
    expected, sharpness = _transformers(entries, head_dim, pct, base)
    found = rotary_frequencies(int(head_dim * pct), base, scaling)
    torch.testing.assert_close(found, expected, rtol=2e-6, atol=0)
    assert scaling.amplitude == pytest.approx(sharpness)
    assert not torch.allclose(found, rotary_frequencies(int(head_dim * pct), base), rtol=1e-3)


def _transformers(entries: dict[str, Any], head_dim: int, pct: float, base: float) -> tuple[torch.Tensor, float]:
    pytest.importorskip("transformers", minversion="5.0", reason="transformers 4 names these entries otherwise")
    from transformers import LlamaConfig
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    entries = {**entries, "rope_theta": base, "partial_rotary_factor": pct}
    if entries["rope_type"] in ("yarn", "llama3"):
        entries["original_max_position_embeddings"] = ORIGINAL
    config = LlamaConfig(
        hidden_size=2 * head_dim, num_attention_heads=2, max_position_embeddings=ORIGINAL, rope_parameters=entries
    )
    seq_len = 2 * ORIGINAL if entries["rope_type"] == "dynamic" else None
    return ROPE_INIT_FUNCTIONS[entries["rope_type"]](config, torch.device("cpu"), seq_len=seq_len)


@settings(max_examples=50)
@given(
    kind=st.sampled_from(["linear", "ntk", "yarn", "llama3"]),
    pairs=st.integers(2, 64),
    factor=st.floats(1.0, 64.0),
    original=st.integers(128, 8192),
)
def test_frequencies_lie_between_plain_and_divided(kind: str, pairs: int, factor: float, original: int) -> None:
    plain = rotary_frequencies(2 * pairs, 10000.0)
    found = rotary_frequencies(2 * pairs, 10000.0, RopeScaling(kind, factor, original))
    assert (found <= plain * 1.00001).all() and (found >= plain / factor * 0.99999).all()
    if factor == 1.0:
        torch.testing.assert_close(found, plain)


def test_the_amplitude_multiplies_cosines_and_sines() -> None:
    positions, frequencies = torch.tensor([[0, 7]]), rotary_frequencies(8, 100.0)
    plain, louder = rotary_cos_sin(positions, frequencies), rotary_cos_sin(positions, frequencies, 1.5)
    for one, other in zip(plain, louder, strict=True):
        assert torch.equal(one * 1.5, other)

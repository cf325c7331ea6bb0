"""Rotary, ALiBi and sinusoids against their definitions."""

import cmath

import pytest
import torch

from sepllm.attention.positions import alibi_slopes, apply_rotary, rotary_cos_sin, sinusoids
from sepllm.attention.rope_scaling import rotary_frequencies


def test_rotary_is_a_rotation_of_complex_pairs():
    """Dimensions i and i + dim / 2 are one complex number, turned by position * base^(-2i / dim)."""
    dim, base = 6, 100.0
    x = torch.randn(1, 2, 3, 8)
    positions = torch.tensor([[0, 5, 11]])
    turned = apply_rotary(x, *rotary_cos_sin(positions, rotary_frequencies(dim, base)))
    for head in range(2):
        for place, position in enumerate(positions[0].tolist()):
            old, new = x[0, head, place], turned[0, head, place]
            for i in range(dim // 2):
                expected = complex(old[i], old[i + dim // 2]) * cmath.exp(1j * position * base ** (-2 * i / dim))
                assert complex(new[i], new[i + dim // 2]) == pytest.approx(expected, abs=1e-5)
            assert torch.equal(new[dim:], old[dim:])


def test_rotary_keeps_the_type_and_turns_in_fp32():
    cos, sin = rotary_cos_sin(torch.tensor([[4000, 4001]]), rotary_frequencies(4, 10000.0))
    x = torch.randn(1, 1, 2, 4)
    exact = apply_rotary(x.bfloat16().float(), cos, sin)
    rounded = apply_rotary(x.bfloat16(), cos, sin)
    assert rounded.dtype == torch.bfloat16
    assert torch.equal(rounded, exact.bfloat16())


def test_alibi_slopes():
    assert alibi_slopes(8) == [2**-k for k in range(1, 9)]
    twelve = [0.5, 0.25, 0.125, 0.0625, 0.03125, 0.015625, 0.0078125, 0.00390625, 0.7071, 0.3536, 0.1768, 0.0884]
    assert alibi_slopes(12) == pytest.approx(twelve, abs=5e-5)


def test_sinusoids():
    table = sinusoids(torch.tensor([[0, 3]]), 4)
    assert table.shape == (1, 2, 4)
    expected = torch.tensor([[0.0, 0, 1, 1], [0.14112, 0.0299955, -0.9899925, 0.99955]])
    torch.testing.assert_close(table[0], expected, rtol=1e-5, atol=1e-6)
    assert sinusoids(torch.tensor([1]), 5).shape == (1, 5)

"""The triton path says why it cannot run, and what to use instead."""

import importlib.util

import pytest
import torch

from sepllm.attention.interface import separator_attention
from sepllm.attention.plan import build_plan
from sepllm.attention.triton.path import why_not
from sepllm.errors import UnsupportedError
from tests.sepllm.attention.brute_force import sep, text

CUDA = torch.device("cuda")


def test_on_a_cpu() -> None:
    q, k, v = (torch.randn(2, 2, 20, 16) for _ in range(3))
    with pytest.raises(UnsupportedError, match=r"'triton' needs a CUDA device.* on cpu.*path='packed'"):
        separator_attention(q, k, v, build_plan(sep(), text(2, 20)), path="triton")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"softmax": "sa"}, r"'triton' cannot compute softmax='sa'.*path='reference'"),
        ({"dropout_p": 0.25}, r"'triton' cannot compute dropout_p=0.25.*path='masked'"),
    ],
)
def test_what_it_does_not_compute(settings: dict[str, object], message: str) -> None:
    q, k, v = (torch.randn(2, 2, 20, 16) for _ in range(3))
    with pytest.raises(UnsupportedError, match=message):
        separator_attention(q, k, v, build_plan(sep(), text(2, 20)), path="triton", **settings)


@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="needs the package triton")
def test_types_and_sizes() -> None:
    assert why_not(CUDA, torch.bfloat16, 128, 128) is None
    assert "torch.float64. Use path='packed'" in str(why_not(CUDA, torch.float64, 64, 64))
    assert "not 256. Use path='packed'" in str(why_not(CUDA, torch.bfloat16, 256, 256))
    assert "they are 32 and 64" in str(why_not(CUDA, torch.bfloat16, 64, 32))


def test_without_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert "pip install triton" in str(why_not(CUDA, torch.bfloat16, 64, 64))

"""The reference path against plain attention under the brute-force mask, in float64 and below."""

import pytest
import torch

from sepllm.attention.interface import separator_attention
from sepllm.attention.plan import build_plan
from tests.sepllm.attention.brute_force import hard_cases, sep, text
from tests.sepllm.attention.exactness import assert_exact, assert_no_worse_than_torch


@pytest.mark.parametrize("name", hard_cases())
def test_exact_in_float64(name: str) -> None:
    assert_exact(hard_cases()[name], "reference")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_as_good_as_torch_in_low_precision(dtype: torch.dtype) -> None:
    assert_no_worse_than_torch("reference", dtype)


def test_dropout_keeps_the_expectation() -> None:
    torch.manual_seed(0)
    plan = build_plan(sep(), text(1, 20))
    q, k, v = (torch.randn(1, 2, 20, 4) for _ in range(3))
    exact = separator_attention(q, k, v, plan, path="reference")
    drawn = [separator_attention(q, k, v, plan, path="reference", dropout_p=0.2) for _ in range(600)]
    assert not torch.equal(drawn[0], drawn[1])
    assert torch.allclose(torch.stack(drawn).mean(0), exact, atol=0.15)

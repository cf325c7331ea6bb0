"""The masked path against plain attention under the brute-force mask."""

import pytest
import torch

from sepllm.attention.interface import separator_attention
from sepllm.attention.plan import build_plan
from tests.sepllm.attention.brute_force import hard_cases, sep, text
from tests.sepllm.attention.exactness import assert_exact, assert_no_worse_than_torch


@pytest.mark.parametrize("name", hard_cases())
def test_exact_in_float64(name: str) -> None:
    assert_exact(hard_cases()[name], "masked")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_as_good_as_torch_in_low_precision(dtype: torch.dtype) -> None:
    assert_no_worse_than_torch("masked", dtype)


def test_plain_causal_builds_no_mask() -> None:
    plan = build_plan(sep(mode="full"), text(1, 64))
    q, k, v = (torch.randn(1, 2, 64, 4) for _ in range(3))
    separator_attention(q, k, v, plan, path="masked")
    separator_attention(q[:, :, -1:], k, v, plan, path="masked")
    assert "dense_mask" not in vars(plan)

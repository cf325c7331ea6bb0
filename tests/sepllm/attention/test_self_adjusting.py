"""Self-Adjusting softmax against the formula row by row, and against the original's probabilities."""

import re

import numpy as np
import pytest
import torch
from torch import Tensor

from sepllm.attention.interface import separator_attention
from sepllm.attention.plan import build_plan
from sepllm.attention.rule import keep_mask
from sepllm.attention.self_adjusting import self_adjusting_probs
from sepllm.errors import ConfigError
from tests.helpers.shared import shared_folder
from tests.sepllm.attention.brute_force import sep, text

VARIANTS = {"sa": "sa", "no_deno": "no_denominator"}


def _row_by_row(scores: Tensor, keep: Tensor, n: float, d: float, variant: str) -> Tensor:
    """scores, keep: [query, key], queries the last of the keys."""
    result = torch.zeros_like(scores)
    for i in range(scores.shape[0]):
        last = scores.shape[1] - scores.shape[0] + i + 1
        seen = scores[i, :last]
        weights = torch.exp(seen - seen.max()) * keep[i, :last]
        p = weights / weights.sum()
        least, greatest = min(0.0, seen.min().item()), max(0.0, seen.max().item()) + 2 * d
        factor = seen if variant == "no_denominator" else (seen - least + n) / (greatest - least)
        result[i, :last] = p * factor
    return result


@pytest.mark.parametrize("variant", VARIANTS.values())
@pytest.mark.parametrize("shift", [-5.0, 0.0, 5.0])
def test_equals_the_formula(variant: str, shift: float) -> None:
    scores = torch.randn(13, 40, dtype=torch.float64, generator=torch.Generator().manual_seed(1)) + shift
    keep = keep_mask(sep(window=4), text(1, 40))[0, -13:]
    ours = self_adjusting_probs(scores, keep, 0.05, 0.1, variant)
    assert torch.allclose(ours, _row_by_row(scores, keep, 0.05, 0.1, variant), rtol=0, atol=1e-14)


def test_unknown_variant_is_named() -> None:
    with pytest.raises(ConfigError, match="'sas'"):
        self_adjusting_probs(torch.zeros(1, 1), torch.ones(1, 1, dtype=torch.bool), variant="sas")


@pytest.mark.parametrize("softmax", VARIANTS.values())
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("mode", ["full", "sepllm"])
def test_through_the_interface_in_any_type(softmax: str, dtype: torch.dtype, mode: str) -> None:
    """Forward and gradients: at most twice as far from float64 as rounding the inputs and the output alone."""
    ids, source = text(2, 50), torch.Generator().manual_seed(2)
    plan = build_plan(sep(mode=mode), ids)
    exact = [torch.randn(2, 2, 50, 8, dtype=torch.float64, generator=source).to(dtype).double() for _ in range(4)]
    results = []
    for kind in (torch.float64, dtype):
        q, k, v, grad = (t.to(kind).requires_grad_() for t in exact)
        out = separator_attention(q, k, v, plan, softmax=softmax, denominator_bias=1e-7)
        assert out.dtype == kind
        results.append([out, *torch.autograd.grad(out, (q, k, v), grad)])
    for fine, coarse in zip(*results, strict=True):
        rounding = (fine.to(dtype).double() - fine).abs().max()
        assert (coarse.double() - fine).abs().max() <= 2 * rounding + 1e-5


def test_padding_and_other_documents_do_not_move_the_extremes() -> None:
    ids, source = text(1, 30), torch.Generator().manual_seed(3)
    q, k, v = (torch.randn(1, 2, 30, 8, dtype=torch.float64, generator=source) for _ in range(3))
    alone = separator_attention(
        *(t[:, :, 12:] for t in (q, k, v)), build_plan(sep(), ids[:, 12:]), softmax="sa", denominator_bias=1e-6
    )
    for rows in ({"first_real": torch.tensor([12])}, {"documents": (torch.arange(30) >= 12).long()[None]}):
        plan = build_plan(sep(), ids, **rows)
        out = separator_attention(q, k, v, plan, softmax="sa", denominator_bias=1e-6)
        assert torch.allclose(out[:, :, 12:], alone, rtol=0, atol=1e-14)


def test_probabilities_of_the_original() -> None:
    """All of sa_softmax but probs64_inplace_mask (a fault: the mask overwrites the scores) and the fp16 copies."""
    arrays = np.load(shared_folder("reference", "goldens", "sa_softmax.npz"))
    checked = 0
    for name in arrays.files:
        match = re.fullmatch(r"(case\d)\.(sa|no_deno)\.nb(.+)\.db(.+)\.probs64", name)
        sparse = re.fullmatch(r"(case\d)\.sparse\.(sa|no_deno)\.probs64", name)
        if not match and not sparse:
            continue
        case, mode = (match or sparse).group(1, 2)
        numerator, denominator = map(float, match.group(3, 4)) if match else (0.0, 1e-10)
        q, k = (torch.from_numpy(arrays[f"{case}.{part}"]).permute(1, 2, 0, 3) for part in "qk")
        scores = q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5
        keep = torch.ones(scores.shape[-2:], dtype=torch.bool).tril()
        if sparse:
            keep = torch.from_numpy(arrays[f"{case}.sparse.keep"])[:, None]
        ours = self_adjusting_probs(scores, keep, numerator, denominator, VARIANTS[mode])
        golden = torch.from_numpy(arrays[name])
        assert torch.allclose(ours, golden, rtol=1e-9, atol=1e-9), name
        checked += 1
    assert checked == 10

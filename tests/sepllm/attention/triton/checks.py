"""What the kernels must get right, on a GPU or in Triton's interpreter: named checks that raise AssertionError."""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from sepllm.attention.interface import separator_attention
from sepllm.attention.plan import build_plan
from tests.sepllm.attention.brute_force import Case, hard_cases, oracle_attention, sep, text
from tests.sepllm.attention.exactness import assert_no_worse_than_torch

# Measured: 3e-7 at most, forward and gradients, interpreter and float32.
TOLERANCE = 1e-6


def all_checks(device: str) -> dict[str, Callable[[], None]]:
    """Every check by name."""
    checks: dict[str, Callable[[], None]] = {
        name: partial(_right_in_float32, case, device) for name, case in hard_cases().items()
    }
    for head_dim in (8, 24, 64, 80, 128):
        checks[f"heads of {head_dim}"] = partial(_right_in_float32, Case(text(1, 70), sep()), device, head_dim)
    for window in (2, 31):  # a tile too many or too few, of 32 keys, shows with these
        case = Case(torch.ones(1, 100, dtype=torch.int64), sep(window=window))
        checks[f"only separators, window of {window}"] = partial(_right_in_float32, case, device)
    checks["the same bits again"] = partial(_same_bits, device)
    checks["views of one projection"] = partial(_views, device)
    checks["bfloat16"] = partial(_as_good_as_torch, torch.bfloat16, device)
    checks["float16"] = partial(_as_good_as_torch, torch.float16, device)
    return checks


def _right_in_float32(case: Case, device: str, head_dim: int = 16) -> None:
    exact = [t.float().double() for t in case.tensors(head_dim=head_dim)]
    mask = case.mask()
    truth = _with_gradients(lambda *t: oracle_attention(*t, mask, **case.scores), exact)
    rows = {name: None if t is None else t.to(device) for name, t in case.rows.items()}
    scores = {name: None if t is None else t.to(device) for name, t in case.scores.items()}
    plan = build_plan(case.config, case.ids.to(device), **rows)
    single = [t.float().to(device) for t in exact]
    ours = _with_gradients(lambda *t: separator_attention(*t, plan, path="triton", **scores), single)
    for what, mine, true in zip(("output", "dq", "dk", "dv"), ours, truth, strict=True):
        error = ((mine.cpu().double() - true).norm() / true.norm().clamp(min=1.0)).item()
        assert error <= TOLERANCE, f"{what} is off by {error:.2e}"


def _as_good_as_torch(dtype: torch.dtype, device: str) -> None:
    with torch.device(device):
        assert_no_worse_than_torch("triton", dtype)


def _same_bits(device: str) -> None:
    source = torch.Generator().manual_seed(5)
    tensors = [torch.randn(2, 2, 90, 16, generator=source).to(device) for _ in range(4)]
    ids = text(2, 90, share=0.4).to(device)

    def run() -> list[Tensor]:
        plan = build_plan(sep(), ids)
        return _with_gradients(lambda *t: separator_attention(*t, plan, path="triton"), tensors)

    assert all(torch.equal(one, other) for one, other in zip(run(), run(), strict=True))


def _views(device: str) -> None:
    """q, k, v as views [batch, seq, heads, 3 x dim], a gradient that is one number expanded."""
    source = torch.Generator().manual_seed(6)
    fused = torch.randn(2, 70, 2, 48, generator=source).to(device).requires_grad_()
    plan = build_plan(sep(), text(2, 70).to(device))
    grads = {}
    for path in ("triton", "reference"):
        q, k, v = (t.transpose(1, 2) for t in fused.chunk(3, dim=-1))
        out = separator_attention(q, k, v, plan, path=path)
        (grads[path],) = torch.autograd.grad(out.sum(), fused)
        if path == "triton":
            assert out.transpose(1, 2).is_contiguous(), "the layer behind would have to copy"
    assert torch.allclose(grads["triton"], grads["reference"], rtol=0, atol=1e-5)


def _with_gradients(function: Callable[..., Tensor], inputs: list[Tensor]) -> list[Tensor]:
    *tensors, grad = inputs
    leaves = [t.clone().requires_grad_() for t in tensors]
    out = function(*leaves)
    return [out.detach(), *torch.autograd.grad(out, leaves, grad)]

"""How close a path must come to the oracle: exact in float64, no worse than twice plain PyTorch below it."""

from collections.abc import Callable, Iterable

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from sepllm.attention.interface import separator_attention
from sepllm.attention.plan import build_plan
from tests.sepllm.attention.brute_force import Case, oracle_attention, sep, text


def assert_exact(case: Case, path: str, tolerance: float = 1e-12) -> None:
    """Output and all gradients of `path` equal the oracle's in float64."""
    q, k, v, grad = case.tensors()
    plan = build_plan(case.config, case.ids, **case.rows)
    ours = _with_gradients(lambda *t: separator_attention(*t, plan, path=path, **case.scores), (q, k, v), grad)
    mask = case.mask()
    oracle = _with_gradients(lambda *t: oracle_attention(*t, mask, **case.scores), (q, k, v), grad)
    for what, mine, exact in zip(("output", "dq", "dk", "dv"), ours, oracle, strict=True):
        error = (mine - exact).abs().max().item()
        assert error <= tolerance, f"{what} is off by {error:.2e}"


def assert_no_worse_than_torch(path: str, dtype: torch.dtype) -> None:
    """On a text of 300 tokens, at most twice as far from float64 as PyTorch's own attention in the same type."""
    case = Case(text(2, 300), sep(window=20))
    plan, mask = build_plan(case.config, case.ids), case.mask()
    rounded = [t.to(dtype) for t in case.tensors(head_dim=64)]
    *exact, grad = [t.double() for t in rounded]
    truth = _with_gradients(lambda *t: oracle_attention(*t, mask), exact, grad)
    *low, low_grad = rounded
    ours = _with_gradients(lambda *t: separator_attention(*t, plan, path=path), low, low_grad)
    torchs = _with_gradients(lambda *t: scaled_dot_product_attention(*t, attn_mask=mask[:, None]), low, low_grad)
    for what, mine, theirs, true in zip(("output", "dq", "dk", "dv"), ours, torchs, truth, strict=True):
        assert mine.dtype == dtype
        mine_off, theirs_off = ((t.double() - true).norm().item() for t in (mine, theirs))
        assert mine_off <= 2 * theirs_off, f"{what} is off by {mine_off:.2e}, PyTorch by {theirs_off:.2e}"


def _with_gradients(function: Callable[..., Tensor], inputs: Iterable[Tensor], grad: Tensor) -> list[Tensor]:
    leaves = [t.clone().requires_grad_() for t in inputs]
    out = function(*leaves)
    return [out.detach(), *torch.autograd.grad(out, leaves, grad)]

"""The flex path: its forward pass against the oracle, what it refuses, and on a GPU its gradients."""

import logging
from collections.abc import Iterator

import pytest
import torch
from torch.nn.attention import flex_attention as torch_flex

from sepllm.attention import flex, flex_tables
from sepllm.attention.interface import separator_attention
from sepllm.attention.plan import build_plan
from sepllm.errors import UnsupportedError
from tests.sepllm.attention.brute_force import Case, hard_cases, oracle_attention, sep, text

CASES = {name: case for name, case in hard_cases().items() if case.queries is None}


@pytest.fixture
def uncompiled(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same function without the compiler: all scores at once, any type."""
    monkeypatch.setattr(flex, "_kernel", lambda: torch_flex.flex_attention)


def _assert_exact(case: Case, tolerance: float = 1e-12) -> None:
    q, k, v, _ = case.tensors()
    out = separator_attention(q, k, v, build_plan(case.config, case.ids, **case.rows), path="flex", **case.scores)
    error = (out - oracle_attention(q, k, v, case.mask(), **case.scores)).abs().max().item()
    assert error <= tolerance, f"off by {error:.2e}"


@pytest.mark.usefixtures("uncompiled")
@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
@pytest.mark.parametrize("name", CASES)
def test_exact_in_float64(name: str) -> None:
    _assert_exact(CASES[name])


@pytest.mark.usefixtures("uncompiled")
@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
def test_rows_above_the_capacity_are_exact_and_logged(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(flex_tables, "CAPACITY_SHARE", 0.1)
    with caplog.at_level(logging.WARNING):
        _assert_exact(Case(text(3, 400, share=0.6), sep()))
    assert "3 of 3 rows have more than 128 separators" in caplog.text


def test_what_it_refuses() -> None:
    plan = build_plan(sep(), text(1, 200))
    q = torch.zeros(1, 2, 200, 8)
    with pytest.raises(UnsupportedError, match=r"no gradients on a CPU.*path='packed'"):
        separator_attention(q.requires_grad_(), q, q, plan, path="flex")
    q = q.detach()
    with pytest.raises(UnsupportedError, match=r"3 queries for 200 keys"):
        separator_attention(q[:, :, -3:], q, q, plan, path="flex")
    with pytest.raises(UnsupportedError, match=r"'flex'.*softmax='sa'"):
        separator_attention(q, q, q, plan, path="flex", softmax="sa")


@pytest.fixture
def compiled() -> Iterator[None]:
    torch.compiler.reset()
    yield
    torch.compiler.reset()


@pytest.mark.slow
@pytest.mark.usefixtures("compiled")
def test_compiled_once_for_all_texts_of_a_shape() -> None:
    graphs = torch._dynamo.utils.counters["stats"]
    before = graphs["unique_graphs"]
    for seed, share in enumerate((0.1, 0.3, 0.9)):
        case = Case(text(2, 300, share=share, seed=seed), sep(window=30))
        q, k, v, _ = case.tensors(torch.float32, head_dim=16)
        plan = build_plan(case.config, case.ids)
        out = separator_attention(q, k, v, plan, path="flex")
        assert torch.allclose(out, oracle_attention(q, k, v, case.mask()), rtol=0, atol=2e-6)
    assert graphs["unique_graphs"] == before + 1


@pytest.mark.gpu
@pytest.mark.parametrize("name", CASES)
def test_gradients_on_a_gpu(name: str) -> None:
    """FlexAttention has had wrong gradients for masks that depend on the batch: every case, against float64."""
    case = CASES[name]
    leaves = [t.cuda().requires_grad_() for t in case.tensors(torch.float32, head_dim=16)[:3]]
    grad = case.tensors(torch.float32, head_dim=16)[3].cuda()
    rows = {what: None if t is None else t.cuda() for what, t in case.rows.items()}
    scores = {what: t.float().cuda() if isinstance(t, torch.Tensor) else t for what, t in case.scores.items()}
    out = separator_attention(*leaves, build_plan(case.config, case.ids.cuda(), **rows), path="flex", **scores)
    ours = [out.detach(), *torch.autograd.grad(out, leaves, grad)]
    exact_leaves = [t.detach().double().cpu().requires_grad_() for t in leaves]
    exact_out = oracle_attention(*exact_leaves, case.mask(), **case.scores)
    exact = [exact_out.detach(), *torch.autograd.grad(exact_out, exact_leaves, grad.double().cpu())]
    for what, mine, true in zip(("output", "dq", "dk", "dv"), ours, exact, strict=True):
        error = ((mine.double().cpu() - true).norm() / true.norm().clamp(min=1e-9)).item()
        assert error < 2e-3, f"{what} is off by {error:.1e}"  # float32 matrix units may use TF32


@pytest.mark.gpu
def test_repeated_gradients_are_equal_on_a_gpu() -> None:
    plan = build_plan(sep(window=30), text(2, 600, share=0.3).cuda())
    leaves = [torch.randn(2, 2, 600, 64, device="cuda", requires_grad=True) for _ in range(3)]
    runs = [
        torch.autograd.grad(separator_attention(*leaves, plan, path="flex").square().sum(), leaves) for _ in range(3)
    ]
    for again in runs[1:]:
        assert all(torch.equal(one, other) for one, other in zip(runs[0], again, strict=True))

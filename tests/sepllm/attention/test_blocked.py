"""The blocked path: the Self-Adjusting softmaxes as the reference computes them, without its memory."""

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from torch import Tensor

from sepllm.attention import blocked
from sepllm.attention.interface import separator_attention
from sepllm.attention.plan import Plan, build_plan
from tests.sepllm.attention.brute_force import Case, hard_cases, sep, text
from tests.sepllm.attention.test_rule import situations

SOFTMAXES = ("sa", "no_denominator")
BIASES = {"numerator_bias": 0.05, "denominator_bias": 0.1}


def _results(case: Case, path: str, softmax: str, tensors: list[Tensor], **scores: float) -> list[Tensor]:
    """The output, then the gradients of q, k and v. scores: scale and biases of the softmax."""
    *inputs, grad = tensors
    leaves = [t.clone().requires_grad_() for t in inputs]
    plan = build_plan(case.config, case.ids, **case.rows)
    out = separator_attention(*leaves, plan, path=path, softmax=softmax, **{**BIASES, **case.scores, **scores})
    return [out.detach(), *torch.autograd.grad(out, leaves, grad)]


def _assert_exact(case: Case, softmax: str, tensors: list[Tensor] | None = None, **scores: float) -> None:
    tensors = tensors or list(case.tensors())
    pairs = zip(*(_results(case, path, softmax, tensors, **scores) for path in ("blocked", "reference")), strict=True)
    for what, (ours, exact) in zip(("output", "dq", "dk", "dv"), pairs, strict=True):
        error = (ours - exact).abs().max().item()
        assert error <= 1e-12, f"{what} is off by {error:.2e}"


@pytest.mark.parametrize("softmax", SOFTMAXES)
@pytest.mark.parametrize("name", hard_cases())
def test_exact_in_float64(name: str, softmax: str) -> None:
    _assert_exact(hard_cases()[name], softmax)


@given(case=situations())
@settings(max_examples=40, deadline=None)
@pytest.mark.parametrize("softmax", SOFTMAXES)
def test_any_short_situation_is_exact(case: Case, softmax: str) -> None:
    """In blocks of 8 queries, so that short texts have several, and one head at a time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(blocked, "_QUERIES", 8)
        patch.setattr(blocked, "_SCORES", 1)
        _assert_exact(case, softmax)


@pytest.mark.parametrize("name", ["grouped heads", "ALiBi, grouped, padding", "decoding, several queries"])
def test_one_key_head_at_a_time(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blocked, "_SCORES", 1)
    _assert_exact(hard_cases()[name], "sa")


@pytest.mark.parametrize("name", ["full", "documents, full", "grouped heads", "left padding", "decoding, full"])
@pytest.mark.parametrize("what", ["all scores zero", "equal keys", "small integers", "positive", "negative"])
def test_equal_extremes_share_the_gradient_as_in_autograd(name: str, what: str) -> None:
    """Scores that are exactly equal, and rows whose least or greatest is the zero that always counts.

    The scale is a power of two, so that scores of small integers are equal after rounding too.
    """
    case = hard_cases()[name]
    q, k, v, grad = case.tensors()
    q, k = {
        "all scores zero": (q * 0, k),
        "equal keys": (q, k[:, :, :1].expand_as(k)),
        "small integers": (q.round(), k.round()),
        "positive": (q.abs() + 0.1, k.abs() + 0.1),
        "negative": (q.abs() + 0.1, -k.abs() - 0.1),
    }[what]
    _assert_exact(case, "sa", [q, k, v, grad], scale=0.25)


@pytest.mark.parametrize("softmax", SOFTMAXES)
def test_gradcheck(softmax: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blocked, "_QUERIES", 3)
    plan, source = build_plan(sep(window=3), text(1, 7, share=0.3)), torch.Generator().manual_seed(1)
    shapes = [(1, 4, 5, 2), (1, 2, 7, 2), (1, 2, 7, 3)]
    inputs = [torch.randn(s, dtype=torch.float64, generator=source, requires_grad=True) for s in shapes]
    slopes = torch.tensor([0.5, 0.25, 0.125, 0.1], dtype=torch.float64)

    def attend(*tensors: Tensor) -> Tensor:
        return separator_attention(*tensors, plan, alibi_slopes=slopes, path="blocked", softmax=softmax, **BIASES)

    assert torch.autograd.gradcheck(attend, inputs)


@pytest.mark.parametrize("softmax", SOFTMAXES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("mode", ["full", "sepllm"])
def test_as_good_as_the_reference_in_low_precision(softmax: str, dtype: torch.dtype, mode: str) -> None:
    """At most twice as far from float64; the biases of the published checkpoint."""
    case = Case(text(2, 300), sep(window=20, mode=mode))
    rounded = [t.to(dtype) for t in case.tensors(head_dim=64)]
    biases = {"numerator_bias": 1e-10, "denominator_bias": 1e-7}
    truth = _results(case, "reference", softmax, [t.double() for t in rounded], **biases)
    ours, reference = (_results(case, path, softmax, rounded, **biases) for path in ("blocked", "reference"))
    for mine, theirs, true in zip(ours, reference, truth, strict=True):
        assert mine.dtype == dtype
        assert (mine - true).norm() <= 2 * (theirs - true).norm()


def _tensors(seq: int, batch: int = 2) -> list[Tensor]:
    source = torch.Generator().manual_seed(seq)
    return [torch.randn(batch, 2, seq, 8, generator=source, requires_grad=True) for _ in range(3)]


def _attend(plan: Plan, inputs: list[Tensor]) -> Tensor:
    return separator_attention(*inputs, plan, path="blocked", softmax="sa")


def test_nothing_of_seq_by_seq_is_kept_or_made() -> None:
    """What autograd keeps is counted, every tensor made on the way is watched."""
    seq, kept, largest = 1024, 0, 0

    class Watch(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            nonlocal largest
            result = function(*args, **(kwargs or {}))
            for tensor in result if isinstance(result, list | tuple) else [result]:
                if isinstance(tensor, Tensor):
                    largest = max(largest, tensor.untyped_storage().nbytes())
            return result

    def count(tensor: Tensor) -> Tensor:
        nonlocal kept
        kept += tensor.numel()
        return tensor

    inputs, plan = _tensors(seq, batch=1), build_plan(sep(), text(1, seq))
    with Watch():
        with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
            out = _attend(plan, inputs)
        torch.autograd.grad(out.square().sum(), inputs)
    assert kept == 4 * out.numel()
    assert 0 < largest <= 8 * blocked._QUERIES * seq, f"{largest} bytes in one tensor"


def test_the_same_input_gives_the_same_bits_under_autocast_too() -> None:
    inputs, plan = _tensors(300), build_plan(sep(), text(2, 300))
    runs = [torch.autograd.grad(_attend(plan, inputs).square().sum(), inputs) for _ in range(2)]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        runs.append(torch.autograd.grad(_attend(plan, inputs).square().sum(), inputs))
    for again in runs[1:]:
        assert all(torch.equal(one, other) for one, other in zip(runs[0], again, strict=True))


def test_layouts_of_the_layers_around_it() -> None:
    """q, k, v as views of one projection [batch, seq, heads, 3 x dim], as models hold them."""
    fused = torch.randn(2, 300, 2, 48, dtype=torch.float64)
    views = [t.transpose(1, 2) for t in fused.chunk(3, dim=-1)]
    plan = build_plan(sep(), text(2, 300))
    out = _attend(plan, views)
    assert torch.allclose(out, _attend(plan, [t.contiguous() for t in views]), rtol=0, atol=1e-13)
    assert out.transpose(1, 2).is_contiguous()


@pytest.mark.gpu
@pytest.mark.parametrize("softmax", SOFTMAXES)
def test_gpu_equals_cpu(softmax: str) -> None:
    case = Case(text(2, 600), sep(window=20), heads=4, kv_heads=2)
    results = []
    for device in ("cpu", "cuda"):
        leaves = [t.to(device).requires_grad_() for t in case.tensors()[:3]]
        plan = build_plan(case.config, case.ids.to(device))
        out = separator_attention(*leaves, plan, path="blocked", softmax=softmax, **BIASES)
        results.append([out, *torch.autograd.grad(out.square().sum(), leaves)])
    for on_cpu, on_gpu in zip(*results, strict=True):
        assert torch.allclose(on_cpu, on_gpu.cpu(), rtol=0, atol=1e-10)

"""The packed path: exact, reproducible to the bit, linear in memory, and well-behaved under autograd's tools."""

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from torch.utils.checkpoint import checkpoint

from sepllm.attention.interface import separator_attention
from sepllm.attention.plan import Plan, build_plan
from tests.sepllm.attention.brute_force import Case, hard_cases, oracle_attention, sep, text
from tests.sepllm.attention.exactness import assert_exact, assert_no_worse_than_torch
from tests.sepllm.attention.test_rule import situations


@pytest.mark.parametrize("name", hard_cases())
def test_exact_in_float64(name: str) -> None:
    assert_exact(hard_cases()[name], "packed")


@given(situations())
@settings(max_examples=40)
def test_any_short_situation_is_exact(case: Case) -> None:
    assert_exact(case, "packed")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_as_good_as_torch_in_low_precision(dtype: torch.dtype) -> None:
    assert_no_worse_than_torch("packed", dtype)


def _tensors(seq: int, dim: int = 16) -> list[torch.Tensor]:
    source = torch.Generator().manual_seed(seq)
    return [torch.randn(2, 2, seq, dim, generator=source, requires_grad=True) for _ in range(3)]


def _gradients(plan: Plan, inputs: list[torch.Tensor]) -> tuple[torch.Tensor, ...]:
    return torch.autograd.grad(separator_attention(*inputs, plan, path="packed").square().sum(), inputs)


def test_the_same_input_gives_the_same_bits() -> None:
    inputs = _tensors(400)
    runs = [_gradients(build_plan(sep(), text(2, 400, share=0.4)), inputs) for _ in range(3)]
    for again in runs[1:]:
        assert all(torch.equal(one, other) for one, other in zip(runs[0], again, strict=True))


def test_recomputation_shares_the_plan() -> None:
    inputs, plan = _tensors(300), build_plan(sep(), text(2, 300))
    direct = _gradients(plan, inputs)

    def run(*tensors: torch.Tensor) -> torch.Tensor:
        return separator_attention(*tensors, plan, path="packed")

    again = torch.autograd.grad(checkpoint(run, *inputs, use_reentrant=False).square().sum(), inputs)
    assert all(torch.equal(one, other) for one, other in zip(direct, again, strict=True))


def test_layouts_of_the_layers_around_it() -> None:
    """q, k, v as views of one projection [batch, seq, heads, 3 x dim], as models hold them."""
    fused = torch.randn(2, 300, 2, 48, dtype=torch.float64)
    q, k, v = (t.transpose(1, 2) for t in fused.chunk(3, dim=-1))
    case = Case(text(2, 300), sep())
    out = separator_attention(q, k, v, build_plan(case.config, case.ids), path="packed")
    assert torch.allclose(out, oracle_attention(q, k, v, case.mask()), rtol=0, atol=1e-12)
    assert out.transpose(1, 2).is_contiguous()


def test_autocast_around_it_changes_nothing() -> None:
    inputs, plan = _tensors(300), build_plan(sep(), text(2, 300))
    direct = separator_attention(*inputs, plan, path="packed")
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = separator_attention(*inputs, plan, path="packed")
    assert torch.equal(direct, inside)


def test_only_the_gradients_that_are_wanted() -> None:
    q, k, v = _tensors(200)
    plan = build_plan(sep(), text(2, 200))
    full = _gradients(plan, [q, k, v])
    (value_only,) = torch.autograd.grad(
        separator_attention(q.detach(), k.detach(), v, plan, path="packed").square().sum(), [v]
    )
    assert torch.equal(full[2], value_only)


@pytest.mark.parametrize("window", [16, 4000])
def test_no_tensor_grows_with_the_square_of_the_text(window: int) -> None:
    """Every tensor made on the way, backward included, is watched."""
    seq, largest = 4096, 0

    class Watch(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            nonlocal largest
            result = function(*args, **(kwargs or {}))
            for tensor in result if isinstance(result, list | tuple) else [result]:
                if isinstance(tensor, torch.Tensor):
                    largest = max(largest, tensor.untyped_storage().nbytes())
            return result

    inputs = [torch.randn(1, 1, seq, 4, requires_grad=True) for _ in range(3)]
    with Watch():
        _gradients(build_plan(sep(window=window), text(1, seq)), inputs)
    assert 0 < largest <= 128 * seq * 8, f"{largest} bytes in one tensor"


def test_a_row_never_depends_on_its_neighbours_in_the_batch() -> None:
    ids = text(3, 300, share=0.5)
    source = torch.Generator().manual_seed(5)
    q, k, v = (torch.randn(3, 2, 300, 8, generator=source) for _ in range(3))
    together = separator_attention(q, k, v, build_plan(sep(), ids), path="packed")
    for b in range(3):
        one = slice(b, b + 1)
        alone = separator_attention(q[one], k[one], v[one], build_plan(sep(), ids[one]), path="packed")
        assert torch.equal(together[one], alone)

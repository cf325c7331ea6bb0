"""Attention over several ranks equals attention in one process: output and all gradients, in float64."""

import json
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sepllm.attention.context.attention import context_attention
from sepllm.attention.context.exchange import ContextGroup
from sepllm.attention.context.plan import build_context_plan
from sepllm.attention.context.split import split_text
from sepllm.attention.interface import separator_attention
from sepllm.attention.plan import build_plan
from sepllm.errors import ConfigError, ShapeError, UnsupportedError
from tests.helpers.processes import run_ranks
from tests.sepllm.attention.brute_force import Case, hard_cases, oracle_attention, sep, text
from tests.sepllm.attention.context.simulated import forward_and_gradients, put_together, simulate
from tests.sepllm.attention.test_rule import situations

WHOLE_TEXTS = [name for name, case in hard_cases().items() if case.queries is None and case.ids.shape[1] >= 8]


def assert_exact(case: Case, ranks: int, kind: str = "zigzag", path: str = "auto", **wanted: Any) -> None:
    split = split_text(case.ids.shape[1], ranks, kind)
    parts = simulate(ranks, lambda group: forward_and_gradients(case, split, group, path, **wanted))
    together, alone = put_together(parts, split), _alone(case, **wanted)
    for name, exact in alone.items():
        torch.testing.assert_close(together[name], exact, rtol=0, atol=1e-11, msg=lambda text, name=name: name + text)


def _alone(case: Case, **wanted: Any) -> dict[str, torch.Tensor]:
    *inputs, grad = case.tensors()
    leaves = [tensor.requires_grad_() for tensor in inputs]
    if wanted:
        plan = build_plan(case.config, case.ids, **case.rows)
        out = separator_attention(*leaves, plan, path="reference", **case.scores, **wanted)
    else:
        out = oracle_attention(*leaves, case.mask(), **case.scores)
    return dict(zip(("out", "dq", "dk", "dv"), (out.detach(), *torch.autograd.grad(out, leaves, grad)), strict=True))


@pytest.mark.parametrize("name", WHOLE_TEXTS)
def test_hard_cases_on_three_ranks(name: str) -> None:
    assert_exact(hard_cases()[name], ranks=3)
    assert_exact(hard_cases()[name], ranks=2, kind="contiguous", path="packed")


@given(situations(), st.integers(1, 5), st.sampled_from(["zigzag", "contiguous"]), st.sampled_from(["auto", "packed"]))
@settings(max_examples=120)
def test_any_short_situation(case: Case, ranks: int, kind: str, path: str) -> None:
    ranks = min(ranks, case.ids.shape[1] // (2 if kind == "zigzag" else 1)) or 1
    assert_exact(case, ranks, kind if case.ids.shape[1] > 1 else "contiguous", path)


@pytest.mark.parametrize("softmax", ["sa", "no_denominator"])
def test_self_adjusting_softmax_sees_hidden_scores(softmax: str) -> None:
    for name in ("odd length, ragged batch", "documents, limit, padding", "streaming", "full"):
        assert_exact(hard_cases()[name], 2, softmax=softmax, numerator_bias=0.3)


class Rounded(Case):
    """The tensors of a case as bf16 holds them."""

    def tensors(self, dtype: torch.dtype = torch.float64, head_dim: int = 8) -> Any:
        return tuple(tensor.to(dtype) for tensor in super().tensors(torch.bfloat16, head_dim))


class Low(Rounded):
    """The same in bf16."""

    def tensors(self, dtype: torch.dtype = torch.bfloat16, head_dim: int = 8) -> Any:
        return super().tensors(torch.bfloat16, head_dim)


def test_low_precision_is_as_close_as_one_process() -> None:
    ids, config, split = text(2, 300), sep(window=20), split_text(300, 3)
    truth = _alone(Rounded(ids, config, kv_heads=1))
    case = Low(ids, config, kv_heads=1)
    plan = build_plan(config, ids)
    *inputs, grad = case.tensors()
    leaves = [tensor.requires_grad_() for tensor in inputs]
    out = separator_attention(*leaves, plan, path="packed")
    alone = (out.detach(), *torch.autograd.grad(out, leaves, grad))
    together = put_together(simulate(3, lambda group: forward_and_gradients(case, split, group, "packed")), split)
    for (name, ours), single in zip(together.items(), alone, strict=True):
        assert ours.dtype == torch.bfloat16
        ours_off, single_off = ((tensor.double() - truth[name]).norm().item() for tensor in (ours, single))
        assert ours_off <= 1.3 * single_off, f"{name} is off by {ours_off:.2e}, one process by {single_off:.2e}"


PROCESS_CASES = ["odd length, ragged batch", "documents, limit, padding", "full", "ALiBi, grouped, padding"]


@pytest.mark.multiprocess
@pytest.mark.parametrize("ranks", [2, 4])
def test_real_processes(ranks: int) -> None:
    """Through gloo, in float64 and float32; what is passed is what the plan names."""
    results = run_ranks(rank_program, ranks)
    for number, name in enumerate(PROCESS_CASES):
        case, split = hard_cases()[name], split_text(hard_cases()[name].ids.shape[1], ranks)
        parts = [
            {key: torch.tensor(value, dtype=torch.float64) for key, value in json.loads(result[number]).items()}
            for result in results
        ]
        for key, exact in _alone(case).items():
            torch.testing.assert_close(put_together(parts, split)[key], exact, rtol=0, atol=1e-10)


def rank_program() -> list[str]:
    import torch.distributed as dist

    dist.init_process_group("gloo")
    group = ContextGroup(dist.get_rank(), dist.get_world_size())
    results = []
    for name in PROCESS_CASES:
        case = hard_cases()[name]
        parts = forward_and_gradients(case, split_text(case.ids.shape[1], group.size), group)
        results.append(json.dumps({key: value.tolist() for key, value in parts.items()}))
    return results


def test_what_cannot_be_computed_is_refused() -> None:
    case = Case(text(2, 40), sep())
    whole, split = build_plan(case.config, case.ids), split_text(40, 2)
    plan = build_context_plan(whole, split, 0)
    q, k, v, _ = (tensor[:, :, :20] for tensor in case.tensors())
    with pytest.raises(UnsupportedError, match="flex"):
        context_attention(q, k, v, plan, ContextGroup(0, 2), path="flex")
    with pytest.raises(ConfigError, match="sees_all"):
        context_attention(q, k, v, plan, ContextGroup(0, 2), softmax="sa")
    with pytest.raises(ConfigError, match=r"rank 0 of 2.*1 of 2"):
        context_attention(q, k, v, plan, ContextGroup(1, 2))
    with pytest.raises(ShapeError, match=r"k is \[2, 2, 19, 8\]"):
        context_attention(q, k[:, :, 1:], v, plan, ContextGroup(0, 2))
    with pytest.raises(ShapeError, match=r"39.*40"):
        build_context_plan(whole, split_text(39, 2), 0)

"""The stretches of queries that the kernels work with are the rule, no more and no less."""

import pytest
import torch
from hypothesis import given, settings
from torch import Tensor

from sepllm.attention.plan import Plan, build_plan
from sepllm.attention.triton.tables import tables_of
from tests.sepllm.attention.brute_force import Case, hard_cases, sep, text
from tests.sepllm.attention.test_rule import situations


def _seen_by(plan: Plan) -> tuple[Tensor, Tensor]:
    """Nearby and far keys as the kernels find them: counts [batch, query, key]."""
    tables, seq, n = tables_of(plan), plan.seq, plan.window
    near = torch.zeros(plan.batch, seq, seq, dtype=torch.int64)
    far = torch.zeros_like(near)
    for b in range(plan.batch):
        for k in range(seq):
            end = int(tables.near_end[b, k]) if tables.has_ends else seq
            near[b, k : min(k + n, end), k] += 1
            key = int(tables.packed[b, k])
            end = int(tables.far_end[b, k]) if tables.has_ends else seq
            if key < seq:
                far[b, key + n : end, key] += 1
    return near, far


def _check(case: Case) -> None:
    near, far = _seen_by(build_plan(case.config, case.ids, **case.rows))
    assert torch.equal(near + far, case.mask().long())


@pytest.mark.parametrize("name", hard_cases())
def test_hard_cases(name: str) -> None:
    _check(hard_cases()[name])


@given(situations())
@settings(max_examples=60)
def test_any_short_situation(case: Case) -> None:
    _check(case)


def test_made_once_and_small() -> None:
    plan = build_plan(sep(max_separators=3), text(2, 100))
    tables = tables_of(plan)
    assert tables_of(plan) is tables
    vectors = (tables.before, tables.packed, tables.start, tables.near_end, tables.far_end)
    assert all(t.dtype == torch.int32 and t.is_contiguous() and t.numel() <= 2 * 101 for t in vectors)


def test_nothing_ends_without_documents_padding_and_limit() -> None:
    assert not tables_of(build_plan(sep(), text(2, 50))).has_ends
    assert tables_of(build_plan(sep(), text(2, 50), first_real=torch.tensor([0, 3]))).has_ends

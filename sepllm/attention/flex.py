"""The flex path: PyTorch's FlexAttention over [gathered marked keys | all keys], with tables made from the plan.

Shapes depend on batch and seq alone, so that each of them is compiled once. For GPUs: on a CPU FlexAttention has
no backward pass. Rows with more marked tokens than are gathered stay exact and become slower; that is logged.
"""

import logging
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn.attention import flex_attention as torch_flex
from torch.nn.functional import pad

from sepllm.attention.flex_tables import FlexTables, flex_tables, rows_above
from sepllm.attention.plan import Plan
from sepllm.errors import UnsupportedError

_MOST_SHAPES = 64

_log = logging.getLogger(__name__)


def flex_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    plan: Plan,
    scale: float,
    alibi_slopes: Tensor | None = None,
    positions: Tensor | None = None,
) -> Tensor:
    """query [batch, heads, seq, dim], key and value [batch, kv_heads, seq, dim] -> [batch, heads, seq, dim].

    alibi_slopes: [heads]; positions: [seq] or [batch, seq], or None for the place in the row.
    Raises UnsupportedError for gradients on a CPU, and for queries that are only the last part of the keys.
    """
    _check(query, key, value, plan)
    tables = tables_of(plan)
    more = tables.seq - plan.seq
    q, k, v = (pad(tensor, (0, 0, 0, more)) if more else tensor for tensor in (query, key, value))
    if tables.capacity:
        k, v = (torch.cat([_Gather.apply(part, tables), whole], dim=2) for part, whole in ((key, k), (value, v)))
    bias = None if alibi_slopes is None else _alibi(alibi_slopes, positions, plan, tables)
    grouped = query.shape[1] != key.shape[1]
    out = _kernel()(q, k, v, score_mod=bias, block_mask=tables.blocks, scale=scale, enable_gqa=grouped)
    return out[:, :, : plan.seq]


def _check(query: Tensor, key: Tensor, value: Tensor, plan: Plan) -> None:
    if query.shape[2] != plan.seq:
        raise UnsupportedError(
            f"path 'flex' cannot compute {query.shape[2]} queries for {plan.seq} keys: it takes whole texts. "
            "Use path='auto' or path='masked'."
        )
    wanted = torch.is_grad_enabled() and any(tensor.requires_grad for tensor in (query, key, value))
    if wanted and query.device.type == "cpu":
        raise UnsupportedError(
            "path 'flex' has no gradients on a CPU: FlexAttention computes only forward there. Use path='packed'."
        )


def tables_of(plan: Plan) -> FlexTables:
    """The tables of a plan, made at the first call."""
    if ("flex",) not in plan.scratch:
        tables = flex_tables(plan)
        plan.scratch[("flex",)] = tables
        if plan.marks.marked.device.type == "cpu":
            # On a GPU, asking would wait for it; there rows_above is a metric for whoever waits anyway.
            above = int(rows_above(plan, tables.capacity)) if tables.capacity else 0
            if above:
                _log.warning(
                    "%d of %d rows have more than %d separators and initial tokens, for which path 'flex' is laid "
                    "out; they are computed exactly, but more slowly.",
                    above,
                    plan.batch,
                    tables.capacity,
                )
    known: FlexTables = plan.scratch[("flex",)]
    return known


@lru_cache(maxsize=1)
def _kernel() -> Callable[..., Any]:
    # Uncompiled, FlexAttention makes all scores at once; past this many shapes and windows the compiler would give
    # up without a word, but for fullgraph.
    torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, _MOST_SHAPES)
    return torch.compile(torch_flex.flex_attention, dynamic=False, fullgraph=True)


class _Gather(torch.autograd.Function):
    """[batch, heads, seq, dim] -> [batch, heads, capacity, dim]; no atomic addition in the backward pass."""

    @staticmethod
    def forward(ctx: Any, tensor: Tensor, tables: FlexTables) -> Tensor:
        ctx.tables, ctx.seq = tables, tensor.shape[2]
        return tensor.gather(2, _rows(tables.gather, tensor))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        # Each place is the target of one gathered key; places without a key share a row that is thrown away.
        batch, heads, _, dim = grad.shape
        sums = grad.new_zeros(batch, heads, ctx.seq + 1, dim)
        return sums.scatter_(2, _rows(ctx.tables.target, grad), grad)[:, :, : ctx.seq], None


def _rows(index: Tensor, like: Tensor) -> Tensor:
    """[batch, capacity] -> [batch, heads, capacity, dim]."""
    return index[:, None, :, None].expand(-1, like.shape[1], -1, like.shape[3])


def _alibi(slopes: Tensor, positions: Tensor | None, plan: Plan, tables: FlexTables) -> Callable[..., Tensor]:
    if positions is None:
        positions = torch.arange(plan.seq, device=slopes.device)
    queries = pad(positions.expand(plan.batch, -1), (0, tables.seq - plan.seq))
    keys = queries.gather(1, tables.place.long().clamp(max=tables.seq - 1))

    def bias(score: Tensor, b: Tensor, h: Tensor, q: Tensor, k: Tensor) -> Tensor:
        return score + slopes[h] * (keys[b, k] - queries[b, q])

    return bias

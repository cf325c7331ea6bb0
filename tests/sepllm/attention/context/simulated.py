"""A context group inside one process: a thread per rank, and an exchange through a common table."""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor

from sepllm.attention.context.attention import context_attention
from sepllm.attention.context.exchange import ContextGroup
from sepllm.attention.context.plan import build_context_plan
from sepllm.attention.context.split import Split
from sepllm.attention.plan import build_plan
from tests.sepllm.attention.brute_force import Case


class Table:
    """Where threads leave for each other what a process would send."""

    def __init__(self, ranks: int) -> None:
        self.barrier = threading.Barrier(ranks, timeout=600)
        self.posted: dict[tuple[int, int], Tensor] = {}

    def all_to_all(self, rank: int, arrived: Tensor, rows: Tensor, received: list[int], sent: list[int]) -> None:
        for peer, part in enumerate(rows.split(sent)):
            self.posted[rank, peer] = part.clone()
        self.barrier.wait()
        for peer, part in enumerate(arrived.split(received)):
            part.copy_(self.posted[peer, rank])  # fails where the two ranks counted differently
        self.barrier.wait()


def simulate(ranks: int, function: Callable[[ContextGroup], Any]) -> list[Any]:
    """What function(group) returns on every rank."""
    table = Table(ranks)

    def run(rank: int) -> Any:
        try:
            return function(ContextGroup(rank, ranks, group=rank))
        except BaseException:
            table.barrier.abort()
            raise

    def all_to_all_single(arrived: Tensor, rows: Tensor, received: list[int], sent: list[int], group: int) -> None:
        table.all_to_all(group, arrived, rows, received, sent)

    with patch("torch.distributed.all_to_all_single", all_to_all_single), ThreadPoolExecutor(ranks) as pool:
        futures = [pool.submit(run, rank) for rank in range(ranks)]
        errors = [error for error in (future.exception() for future in futures) if error is not None]
        for error in sorted(errors, key=lambda error: isinstance(error, threading.BrokenBarrierError)):
            raise error
        return [future.result() for future in futures]


def forward_and_gradients(
    case: Case, split: Split, group: ContextGroup, path: str = "auto", **settings: Any
) -> dict[str, Tensor]:
    """The rank's part of output, dq, dk, dv of `case` (queries: all), in the rank's order of positions."""
    own = split.positions(group.rank)
    q, k, v, grad = (tensor[:, :, own] for tensor in case.tensors())
    leaves = [tensor.clone().requires_grad_() for tensor in (q, k, v)]
    whole = build_plan(case.config, case.ids, **case.rows)
    plan = build_context_plan(whole, split, group.rank, sees_all=settings.get("softmax", "softmax") != "softmax")
    out = context_attention(*leaves, plan, group, path=path, **case.scores, **settings)
    parts = (out.detach(), *torch.autograd.grad(out, leaves, grad))
    return dict(zip(("out", "dq", "dk", "dv"), parts, strict=True))


def put_together(parts: list[dict[str, Tensor]], split: Split) -> dict[str, Tensor]:
    """The ranks' parts at their places in the text."""
    order = torch.cat([split.positions(rank) for rank in range(split.ranks)]).argsort()
    return {name: torch.cat([part[name] for part in parts], dim=2)[:, :, order] for name in parts[0]}

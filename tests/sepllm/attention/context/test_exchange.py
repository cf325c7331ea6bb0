"""The exchange: the bytes it counts are those that pass, and repeated runs give the same bits."""

import torch

from sepllm.attention.context.exchange import ContextGroup, exchange
from sepllm.attention.context.plan import build_context_plan
from sepllm.attention.context.split import split_text
from sepllm.attention.plan import build_plan
from tests.sepllm.attention.brute_force import Case, sep, text
from tests.sepllm.attention.context.simulated import forward_and_gradients, simulate


def test_bytes_are_counted_in_both_directions() -> None:
    case, split = Case(text(2, 96), sep(), heads=4, kv_heads=2), split_text(96, 3)

    def run(group: ContextGroup) -> tuple[tuple[int, ...], tuple[int, ...], int, int, int]:
        forward_and_gradients(case, split, group)
        plan = build_context_plan(build_plan(case.config, case.ids), split, group.rank)
        traffic = group.traffic
        return plan.sent, plan.received, traffic.forward_bytes, traffic.backward_bytes, traffic.exchanges

    for sent, received, forward, backward, exchanges in simulate(3, run):
        row = 2 * 2 * 8 * 8  # key and value, kv_heads, head_dim, float64
        assert forward == sum(received) * row > 0
        assert backward == sum(sent) * row > 0
        assert exchanges == 2


def test_the_same_input_gives_the_same_bits() -> None:
    case, split = Case(text(2, 200, share=0.4), sep()), split_text(200, 3)
    runs = [simulate(3, lambda group: forward_and_gradients(case, split, group)) for _ in range(3)]
    for again in runs[1:]:
        for one, other in zip(runs[0], again, strict=True):
            assert all(torch.equal(one[name], other[name]) for name in one)


def test_values_may_be_wider_than_keys() -> None:
    plan, split = build_plan(sep(), text(1, 40)), split_text(40, 2)
    values = torch.arange(40.0).view(1, 1, 40, 1).expand(1, 1, 40, 5)

    def run(group: ContextGroup) -> list[tuple[torch.Tensor, torch.Tensor]]:
        own = split.positions(group.rank)
        local = build_context_plan(plan, split, group.rank)
        return exchange(torch.zeros(1, 1, len(own), 3), values[:, :, own], local, group)

    for rank, parts in enumerate(simulate(2, run)):
        stretches = build_context_plan(plan, split, rank).stretches
        for stretch, (key, value) in zip(stretches, parts, strict=True):
            assert (key.shape[-1], value.shape[-1]) == (3, 5)
            assert torch.equal(value[0, 0, :, 0], stretch.positions[0].float())

"""The packed path: marked keys gathered once, queries in chunks, memory O(seq). Placeholder wiring below."""

from torch import Tensor

from sepllm.attention.plan import Plan
from sepllm.errors import UnsupportedError


def packed_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    plan: Plan,
    scale: float,
    alibi_slopes: Tensor | None,
    positions: Tensor | None,
) -> Tensor:
    raise UnsupportedError("path 'packed' is not here yet. Use path='masked'.")

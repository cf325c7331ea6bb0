"""The oracle: the paper's sentence in two loops, and attention in float64 below it. Slow on purpose."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache, cached_property
from typing import Any

import torch
from torch import Tensor

from sepllm.config import SepConfig


def brute_force_mask(
    config: SepConfig,
    token_ids: Sequence[int],
    layer: int = 0,
    first_real: int = 0,
    documents: Sequence[int] | None = None,
) -> Tensor:
    """bool [query, key] of one row, from the sentences of the rule alone."""
    size = len(token_ids)
    a, n, s = config.init_tokens, config.window_for(layer), config.max_separators
    document = [0] * size if documents is None else list(documents)
    begin = [max([first_real] + [j for j in range(1, i + 1) if document[j] != document[j - 1]]) for i in range(size)]
    mask = torch.zeros(size, size, dtype=torch.bool)
    for i in range(size):
        mask[i, i] = True
        if i < first_real:
            continue
        beyond = 0  # separators met beyond the window, newest first
        for j in range(i - 1, -1, -1):
            if j < first_real or document[j] != document[i]:
                continue
            place = j - (begin[j] if config.init_per_document else first_real)
            initial = 0 <= place < a
            fixed = config.mode == "fixed" and place % config.interval_for(layer) == 0
            stays = fixed or (config.mode == "sepllm" and token_ids[j] in config.separators)
            if config.mode == "full" or i - j < n or initial:
                mask[i, j] = True
            elif stays:
                beyond += 1
                mask[i, j] = s is None or beyond <= s
    return mask


def oracle_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    mask: Tensor,
    alibi_slopes: Tensor | None = None,
    positions: Tensor | None = None,
) -> Tensor:
    """Masked softmax attention of plain PyTorch in the type of q. mask: bool [batch, seq, seq]; the rest as usual."""
    queries, seq, groups = q.shape[2], k.shape[2], q.shape[1] // k.shape[1]
    k, v = (torch.repeat_interleave(t, groups, dim=1) for t in (k, v))
    scores = torch.einsum("bhqd,bhkd->bhqk", q, k) / math.sqrt(q.shape[-1])
    if alibi_slopes is not None:
        places = torch.arange(seq) if positions is None else positions
        places = places.expand(q.shape[0], -1)
        distance = places[:, -queries:, None] - places[:, None, :]
        scores = scores - alibi_slopes.to(q.dtype)[None, :, None, None] * distance[:, None]
    scores = scores.masked_fill(~mask[:, None, -queries:], -math.inf)
    return torch.einsum("bhqk,bhkd->bhqd", scores.softmax(dim=-1), v)


@dataclass(frozen=True, eq=False)
class Case:
    """One named situation: token ids [batch, seq], settings, and what else the rule or the scores need."""

    ids: Tensor
    config: SepConfig
    first_real: Tensor | None = None
    documents: Tensor | None = None
    heads: int = 2
    kv_heads: int = 2
    queries: int | None = None
    alibi: bool = False
    positions: Tensor | None = field(default=None)

    @property
    def rows(self) -> dict[str, Tensor | None]:
        """What build_plan and keep_mask want to know about the rows."""
        return {"first_real": self.first_real, "documents": self.documents}

    @property
    def scores(self) -> dict[str, Any]:
        """What separator_attention wants to know about the scores."""
        if not self.alibi:
            return {}
        slopes = torch.tensor([2.0 ** -(h + 1) for h in range(self.heads)], dtype=torch.float64)
        return {"alibi_slopes": slopes, "positions": self.positions}

    def mask(self) -> Tensor:
        """bool [batch, seq, seq] by brute force, worked out once."""
        return self._mask

    @cached_property
    def _mask(self) -> Tensor:
        return torch.stack(
            [
                brute_force_mask(
                    self.config,
                    row.tolist(),
                    first_real=0 if self.first_real is None else int(self.first_real[b]),
                    documents=None if self.documents is None else self.documents[b].tolist(),
                )
                for b, row in enumerate(self.ids)
            ]
        )

    def tensors(self, dtype: torch.dtype = torch.float64, head_dim: int = 8) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """q, k, v and a gradient of the output, reproducible."""
        batch, seq = self.ids.shape
        source = torch.Generator().manual_seed(seq + 1000 * batch)
        shapes = [(self.heads, self.queries or seq), (self.kv_heads, seq), (self.kv_heads, seq)]
        shapes.append(shapes[0])
        made = [torch.randn(batch, h, s, head_dim, generator=source, dtype=torch.float64) for h, s in shapes]
        q, k, v, grad = (t.to(dtype) for t in made)
        return q, k, v, grad


def text(batch: int, seq: int, share: float = 0.15, seed: int = 0) -> Tensor:
    """Random ids of which about `share` are the separators 1 and 2, unevenly over the rows."""
    source = torch.Generator().manual_seed(seed)
    chance = torch.rand(batch, seq, generator=source)
    ids = torch.randint(3, 60, (batch, seq), generator=source)
    uneven = share * torch.linspace(0.5, 1.5, batch)[:, None]
    return torch.where(chance < uneven, 1 + (ids % 2), ids)


def sep(**settings: Any) -> SepConfig:
    """A SepConfig with the separators of `text`."""
    return SepConfig(**{"separators": [1, 2], "window": 7, **settings})


def _at(seq: int, places: Sequence[int]) -> Tensor:
    ids = torch.full((1, seq), 9)
    ids[0, list(places)] = 1
    return ids


def _documents(seq: int, borders: Sequence[int]) -> Tensor:
    numbers = torch.zeros(seq, dtype=torch.int64)
    numbers[[b for b in borders if b < seq]] = 1
    return numbers.cumsum(0)


@cache
def hard_cases() -> dict[str, Case]:
    """The situations in which paths of this kind go wrong, by name."""
    n = 7
    paddings = torch.tensor([0, 9, 150])
    documents = torch.stack([_documents(200, b) for b in ([1, 64, 131], [128, 129, 190], [])])
    positions = torch.stack([torch.arange(200) // 5 + b for b in range(3)])
    return {
        "one token": Case(text(2, 1), sep()),
        "no separators": Case(torch.full((2, 150), 9), sep()),
        "nothing far at all": Case(torch.full((2, 150), 9), sep(init_tokens=0)),
        "only separators": Case(torch.full((2, 150), 1), sep()),
        "separators at q-n and q-n+1": Case(_at(300, [128 - n, 129 - n, 127 - n, 255 - n, 256 - n, 257 - n]), sep()),
        "separators at multiples of n and n-1": Case(_at(300, [*range(0, 300, n), *range(n - 1, 300, n)]), sep()),
        "window of one": Case(text(2, 141), sep(window=1)),
        "window wider than a chunk": Case(text(2, 401), sep(window=150)),
        "window as long as the text": Case(text(2, 141), sep(window=141)),
        "window one short of the text": Case(text(2, 141), sep(window=140)),
        "no initial tokens": Case(text(2, 141), sep(init_tokens=0)),
        "more initial tokens than text": Case(text(2, 141), sep(init_tokens=500)),
        "exactly one chunk": Case(text(2, 128), sep()),
        "one more than a chunk": Case(text(2, 129), sep()),
        "odd length, ragged batch": Case(text(4, 387, share=0.5), sep()),
        "newest separators only": Case(text(2, 301, share=0.4), sep(max_separators=3)),
        "no separators beyond the window": Case(text(2, 301, share=0.4), sep(max_separators=0)),
        "streaming": Case(text(2, 301), sep(mode="streaming")),
        "fixed interval": Case(text(2, 301), sep(mode="fixed", interval=5)),
        "full": Case(text(2, 141), sep(mode="full")),
        "left padding": Case(text(3, 200), sep(), first_real=paddings),
        "left padding, full": Case(text(3, 200), sep(mode="full"), first_real=paddings),
        "left padding, fixed": Case(text(3, 200), sep(mode="fixed", interval=4), first_real=paddings),
        "documents": Case(text(3, 200), sep(), documents=documents),
        "documents, initial tokens per row": Case(text(3, 200), sep(init_per_document=False), documents=documents),
        "documents, full": Case(text(3, 200), sep(mode="full"), documents=documents),
        "documents, limit, padding": Case(text(3, 200), sep(max_separators=2), paddings, documents),
        "grouped heads": Case(text(2, 200), sep(), heads=6, kv_heads=2),
        "one key head": Case(text(2, 200), sep(), heads=4, kv_heads=1),
        "ALiBi": Case(text(2, 200), sep(), alibi=True),
        "ALiBi at bilevel positions": Case(text(3, 200), sep(), alibi=True, positions=positions),
        "ALiBi, grouped, padding": Case(text(3, 200), sep(), paddings, heads=4, alibi=True),
        "decoding, one query": Case(text(2, 200), sep(), queries=1),
        "decoding, several queries": Case(text(3, 200), sep(), paddings, documents, queries=37, alibi=True),
        "decoding, chunks across the start": Case(text(2, 401), sep(), queries=300, heads=4),
        "decoding, full": Case(text(2, 50), sep(mode="full"), queries=3),
    }

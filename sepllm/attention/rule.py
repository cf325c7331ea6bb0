"""The rule of separator attention: which key a query may look at. Every path answers to this file.

Pure functions of tensors on any device; imports torch alone, because exported models carry a copy.
A query sees initial tokens, separators and its nearest neighbours (SepLLM, arXiv 2412.12094), or every
interval-th token in place of separators (the paper's FixLLM). True always means: may look.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Protocol

import torch
from torch import Tensor


class RuleSettings(Protocol):
    """The part of SepConfig that the rule reads."""

    @property
    def separators(self) -> Sequence[int]: ...
    @property
    def init_tokens(self) -> int: ...
    @property
    def max_separators(self) -> int | None: ...
    @property
    def mode(self) -> str: ...
    @property
    def init_per_document(self) -> bool: ...
    def window_for(self, layer: int) -> int: ...
    def interval_for(self, layer: int) -> int | None: ...


@dataclass(frozen=True, eq=False)
class Marks:
    """All that the rule needs to know of each token: O(seq), nothing about pairs.

    window: n, static; clipped to seq.
    marked: bool [batch, seq], visible to every later token: initial, separator or on the fixed grid.
    start: int64 [batch, seq], nothing before this position is visible (start of the document, end of the
        left padding; a padding token sees itself alone, so that no softmax is empty). None: 0 everywhere.
    limit: s, at most the newest s marked tokens beyond the window, initial ones not counted. None: all.
    initial: bool [batch, seq] and rank: int64 [batch, seq], number of marked tokens that are not initial
        at or before a position; both None unless limit is set.
    """

    window: int
    marked: Tensor
    start: Tensor | None
    limit: int | None = None
    initial: Tensor | None = None
    rank: Tensor | None = None

    def row(self, index: int) -> "Marks":
        """The marks of one row, as a batch of one."""
        parts = (self.marked, self.start, self.initial, self.rank)
        marked, start, initial, rank = (None if t is None else t[index : index + 1] for t in parts)
        assert marked is not None
        return Marks(self.window, marked, start, self.limit, initial, rank)


def may_look(i: Tensor, j: Tensor, marked: Tensor, start: Tensor | int, n: int) -> Tensor:
    """True where query position i may look at key position j; all arguments broadcast.

    Visible: marked keys and the n nearest keys, i itself included, from `start` of i on, never later than i.
    """
    return (j <= i) & (j >= start) & (marked | (i - j < n))


def keep_mask(
    config: RuleSettings,
    token_ids: Tensor,
    layer: int = 0,
    first_real: Tensor | None = None,
    documents: Tensor | None = None,
) -> Tensor:
    """The dense mask of one layer, from the rule. Costs seq x seq: for tests, pictures and short texts.

    token_ids: [batch, seq] -> bool [batch, query, key].
    first_real: int64 [batch], column of the first real token of a left-padded row; None: no padding.
    documents: int64 [batch, seq], equal numbers side by side are one document and nothing crosses.
    """
    marks = mark_tokens(config, token_ids, layer, first_real, documents)
    positions = torch.arange(token_ids.shape[1], device=token_ids.device)
    return look_mask(marks, positions, positions)


def look_mask(marks: Marks, queries: Tensor, keys: Tensor) -> Tensor:
    """The rule for some queries and some keys.

    queries: int64 [q], keys: int64 [k], positions in the row -> bool [batch, q, k].
    """
    i, j = queries[:, None], keys[None, :]
    marked = marks.marked[:, None, keys]
    start = 0 if marks.start is None else marks.start[:, queries, None]
    if marks.limit is not None:
        assert marks.rank is not None and marks.initial is not None
        # The newest key outside the window of i is i - n; a marked key further back has had limit successors.
        newest = marks.rank[:, (queries - marks.window).clamp(min=0), None]
        marked = marked & (marks.initial[:, None, keys] | (newest - marks.rank[:, None, keys] < marks.limit))
    return may_look(i, j, marked, start, marks.window)


def mark_tokens(
    config: RuleSettings,
    token_ids: Tensor,
    layer: int = 0,
    first_real: Tensor | None = None,
    documents: Tensor | None = None,
) -> Marks:
    """What the rule needs of every token of one layer, in O(seq). Arguments as in keep_mask."""
    batch, seq = token_ids.shape
    position = torch.arange(seq, device=token_ids.device)
    start = _visible_from(position, batch, first_real, documents)
    if config.mode == "full" or config.window_for(layer) >= seq:
        # Everything causal is visible through the window: no token needs a mark.
        return Marks(seq, torch.zeros_like(token_ids, dtype=torch.bool), start)

    origin = start if config.init_per_document else _visible_from(position, batch, first_real, None)
    place = position if origin is None else position - origin  # [seq] or [batch, seq]
    initial, marked = token_kinds(config, token_ids, place, layer)
    if first_real is not None:
        real = position >= first_real[:, None]
        initial, marked = initial & real, marked & real
    window, limit = config.window_for(layer), config.max_separators
    if limit is None:
        return Marks(window, marked, start)
    rank = (marked & ~initial).long().cumsum(dim=1)
    return Marks(window, marked, start, limit, initial, rank)


def token_kinds(config: RuleSettings, token_ids: Tensor, place: Tensor, layer: int) -> tuple[Tensor, Tensor]:
    """Which tokens are initial, and which stay visible to every later token; the initial ones among them.

    token_ids: [batch, seq]; place: where each stands in its row (or document), [seq] or [batch, seq]
    -> two of bool [batch, seq].
    """
    initial = (place < config.init_tokens).expand(token_ids.shape)
    if config.mode == "sepllm":
        return initial, initial | separator_flags(token_ids, tuple(config.separators))
    if config.mode == "fixed":
        interval = config.interval_for(layer)
        assert interval is not None
        return initial, initial | (place % interval == 0)
    return initial, initial


def separator_flags(token_ids: Tensor, separators: tuple[int, ...]) -> Tensor:
    """True where a token id is one of `separators`. token_ids: any shape -> bool of that shape."""
    return torch.isin(token_ids, _on_device(separators, token_ids.dtype, token_ids.device))


@lru_cache(maxsize=32)
def _on_device(values: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    # Kept, because copying a list to a GPU waits for the GPU.
    return torch.tensor(values, dtype=dtype, device=device)


def _visible_from(position: Tensor, batch: int, first_real: Tensor | None, documents: Tensor | None) -> Tensor | None:
    """int64 [batch, seq]: the first position each token could see under full attention, or None for 0."""
    if first_real is None and documents is None:
        return None
    start = torch.zeros_like(position).expand(batch, -1)
    if documents is not None:
        new = torch.ones_like(documents, dtype=torch.bool)
        new[:, 1:] = documents[:, 1:] != documents[:, :-1]
        start = torch.where(new, position, 0).cummax(dim=1).values
    if first_real is not None:
        start = torch.maximum(start, torch.minimum(first_real[:, None], position))
    return start

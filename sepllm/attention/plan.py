"""The plan of one micro-batch for one layer: what the paths need, in O(seq), built once and shared.

Nothing here waits for a GPU: counts stay on the device. Nothing here is of size seq x seq, except the mask
that the dense paths ask for by name.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from sepllm.attention.rule import Marks, RuleSettings, look_mask, mark_tokens
from sepllm.errors import ShapeError


@dataclass(frozen=True, eq=False)
class Plan:
    """Which keys each query of a micro-batch sees, for the layers with one window (and interval).

    batch, seq: sizes the plan was built for. marks: the rule's facts about each token. window: n, clipped to seq.
    is_dense: every earlier token of the document is visible (mode full, or window >= seq).
    padding: int64 [batch], number of padding tokens in front of each row, or None.
    scratch: what a path worked out once for this plan, by keys that begin with the name of the path.
    """

    batch: int
    seq: int
    marks: Marks
    is_dense: bool
    padding: Tensor | None = None
    scratch: dict[tuple[Any, ...], Any] = field(default_factory=dict)

    @property
    def window(self) -> int:
        return self.marks.window

    @property
    def is_plain_causal(self) -> bool:
        """Dense, with neither padding nor documents: a causal kernel needs no mask."""
        return self.is_dense and self.marks.start is None

    @cached_property
    def marked_before(self) -> Tensor:
        """int64 [batch, seq + 1]: number of marked tokens before each position, padding never among them."""
        return _exclusive_count(self.marks.marked)

    @cached_property
    def packed_positions(self) -> Tensor:
        """int64 [batch, seq]: positions of the marked tokens in order, then `seq` as a filler never visible."""
        marked, seq = self.marks.marked, self.seq
        place = torch.where(marked, self.marked_before[:, :-1], seq)
        position = torch.arange(seq, device=marked.device).expand(self.batch, -1)
        packed = torch.full((self.batch, seq + 1), seq, dtype=torch.int64, device=marked.device)
        return packed.scatter_(1, place, position)[:, :-1]

    @property
    def packed_counts(self) -> Tensor:
        """int64 [batch]: number of marked tokens of each row."""
        return self.marked_before[:, -1]

    @cached_property
    def causal_pairs(self) -> Tensor:
        """int64 [batch]: query-key pairs of real tokens under full attention (inside documents)."""
        return self.seen_keys.sum(dim=1)

    @cached_property
    def kept_pairs(self) -> Tensor:
        """int64 [batch]: query-key pairs of real tokens that the rule keeps."""
        return self.kept_keys.sum(dim=1)

    @cached_property
    def kept_keys(self) -> Tensor:
        """int64 [batch, seq]: number of keys that each query sees; 0 for padding."""
        near = self.seen_keys.clamp(max=self.window)
        far = self._marked_beyond_window(self.marked_before)
        if self.marks.limit is not None:
            assert self.marks.initial is not None
            initial = self._marked_beyond_window(_exclusive_count(self.marks.initial))
            far = initial + (far - initial).clamp(max=self.marks.limit)
        return torch.where(self.seen_keys > 0, near + far, 0)

    @cached_property
    def pair_counts(self) -> Tensor:
        """float64 [2]: kept_pairs and causal_pairs summed over the rows."""
        return torch.stack([self.kept_pairs.sum(), self.causal_pairs.sum()]).double()

    @cached_property
    def dense_mask(self) -> Tensor:
        """bool [batch, seq, seq] for the dense paths; seq x seq bytes a row, kept with the plan."""
        return self.mask_for(self.seq)

    def mask_for(self, queries: int) -> Tensor:
        """bool [batch, queries, seq] for the last `queries` positions."""
        positions = torch.arange(self.seq, device=self.marks.marked.device)
        return look_mask(self.marks, positions[self.seq - queries :], positions)

    def causal_mask_for(self, queries: int) -> Tensor:
        """bool [batch, queries, seq]: what full attention would see; last `queries` positions."""
        positions = torch.arange(self.seq, device=self.marks.marked.device)
        return look_mask(self.causal_marks, positions[self.seq - queries :], positions)

    @cached_property
    def causal_marks(self) -> Marks:
        """The marks of full attention over the same rows."""
        return Marks(self.seq, torch.zeros_like(self.marks.marked), self.marks.start)

    @cached_property
    def seen_keys(self) -> Tensor:
        """int64 [batch, seq]: number of keys each query would see under full attention; 0 for padding."""
        position = torch.arange(self.seq, device=self.marks.marked.device).expand(self.batch, -1)
        seen = position + 1 if self.marks.start is None else position + 1 - self.marks.start
        return seen if self.padding is None else torch.where(position >= self.padding[:, None], seen, 0)

    def _marked_beyond_window(self, before: Tensor) -> Tensor:
        """int64 [batch, seq]: of the tokens counted in `before`, those a query's window no longer reaches."""
        position = torch.arange(self.seq, device=before.device).expand(self.batch, -1)
        start = torch.zeros_like(position) if self.marks.start is None else self.marks.start
        border = torch.maximum(position - self.window + 1, start)
        return before.gather(1, border) - before.gather(1, start)


def _exclusive_count(flags: Tensor) -> Tensor:
    """bool [batch, seq] -> int64 [batch, seq + 1]: how many flags stand before each position."""
    return torch.nn.functional.pad(flags.long().cumsum(dim=1), (1, 0))


def build_plan(
    config: RuleSettings,
    token_ids: Tensor,
    layer: int = 0,
    first_real: Tensor | None = None,
    documents: Tensor | None = None,
) -> Plan:
    """The plan of one layer.

    token_ids: integers [batch, seq], cached tokens included.
    first_real: int64 [batch], column of the first real token of left-padded rows.
    documents: int64 [batch, seq], document of each token; nothing crosses from one to the next.
    Raises ShapeError.
    """
    return build_plans(config, token_ids, [layer], first_real, documents)[0]


def build_plans(
    config: RuleSettings,
    token_ids: Tensor,
    layers: Sequence[int],
    first_real: Tensor | None = None,
    documents: Tensor | None = None,
) -> list[Plan]:
    """One plan per layer of `layers`; layers with equal window and interval share one object."""
    _check_shapes(token_ids, first_real, documents)
    batch, seq = token_ids.shape
    shared: dict[tuple[int, int | None], Plan] = {}
    plans = []
    for layer in layers:
        window, interval = min(config.window_for(layer), seq), config.interval_for(layer)
        if config.mode == "full" or window == seq:
            window, interval = seq, None
        key = (window, interval)
        if key not in shared:
            marks = mark_tokens(config, token_ids, layer, first_real, documents)
            shared[key] = Plan(batch, seq, marks, is_dense=window == seq, padding=first_real)
        plans.append(shared[key])
    return plans


def _check_shapes(token_ids: Tensor, first_real: Tensor | None, documents: Tensor | None) -> None:
    if token_ids.dim() != 2 or token_ids.is_floating_point() or token_ids.shape[1] == 0:
        raise ShapeError(
            f"token_ids is {token_ids.dtype} of shape {list(token_ids.shape)}; "
            "expected integer ids [batch, seq] with at least one token."
        )
    if first_real is not None and first_real.shape != token_ids.shape[:1]:
        raise ShapeError(
            f"first_real has shape {list(first_real.shape)}; expected one column per row: [{token_ids.shape[0]}]."
        )
    if documents is not None and documents.shape != token_ids.shape:
        raise ShapeError(
            f"documents has shape {list(documents.shape)}; expected that of token_ids, {list(token_ids.shape)}."
        )

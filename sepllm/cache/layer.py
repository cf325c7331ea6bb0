"""Keys and values of one layer in fixed slots. What goes where was decided in rows.py, once for all layers."""

from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import CacheLayerMixin

from sepllm.cache.position_shift import rotate
from sepllm.cache.rows import Chunk, OneToken, Rows
from sepllm.errors import SepLLMError


class SepLayer(CacheLayerMixin):
    """keys, values: [batch, kv_heads, slots, head_dim]; slots that hold nothing are zero or stale, and masked.

    rows: the book it shares with layers of equal sizes. seen: columns so far.
    frequencies: rotary frequencies where keys are kept unrotated, else None.
    """

    is_compileable = False
    is_croppable = False
    is_sliding = False

    keys: Tensor
    values: Tensor

    def __init__(self, rows: Rows, frequencies: Tensor | None = None) -> None:
        super().__init__()
        self.rows, self.frequencies = rows, frequencies
        self.seen, self.is_initialized = 0, False

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor | None = None) -> None:
        self.dtype, self.device = key_states.dtype, key_states.device
        values = key_states if value_states is None else value_states
        self.keys, self.values = key_states[:, :, :0], values[:, :, :0]
        self.is_initialized = True

    def update(
        self, key_states: Tensor, value_states: Tensor, how: dict[str, Any] | None = None, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """Store new tokens; what attention sees: [batch, kv_heads, entries, head_dim] twice.

        how["unrotated"]: keys and queries come before rotation, and keys return at their places. Otherwise the
        model rotated new tokens to 0, 1, ..., and what is cached stands before them.
        """
        step, new = self.rows.step, key_states.shape[2]
        if step is None or self.seen + new != self.rows.columns:
            raise SepLLMError(
                f"This cache was told of {self.rows.columns} tokens, but a layer that saw {self.seen} got {new} more. "
                "Was a forward pass interrupted? Call cache.reset() and start again."
            )
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        self.seen += new
        unrotated = bool(how and how.get("unrotated"))
        if isinstance(step, OneToken):
            return self._one_token(step, key_states, value_states, unrotated)
        return self._chunk(step, key_states, value_states, unrotated)

    def _one_token(self, step: OneToken, key: Tensor, value: Tensor, unrotated: bool) -> tuple[Tensor, Tensor]:
        if step.repack is not None:
            self.keys, self.values = _pick(self.keys, step.repack), _pick(self.values, step.repack)
        self.keys, self.values = _with_slots(self.keys, step.slots), _with_slots(self.values, step.slots)
        for kept, new in ((self.keys, key), (self.values, value)):
            kept.scatter_(2, step.slot[:, None, None, None].expand_as(new), new)
        keys, values = self.keys[:, :, : step.used], self.values[:, :, : step.used]
        if step.order is not None:
            keys, values = _pick(keys, step.order), _pick(values, step.order)
        if self.frequencies is not None and step.places is not None:
            keys = rotate(keys, _turns(step, unrotated), self.frequencies)
        return keys, values

    def _chunk(self, step: Chunk, key: Tensor, value: Tensor, unrotated: bool) -> tuple[Tensor, Tensor]:
        seen_keys, plain, values = key, key, value
        frequencies = None if step.places is None else self.frequencies
        if frequencies is not None:
            turns = _turns(step, unrotated)[:, -key.shape[2] :]
            if unrotated:
                seen_keys = rotate(key, turns, frequencies)
            else:
                plain = rotate(key, -turns, frequencies)
        if step.gather is not None:
            old = _pick(self.keys, step.gather)
            plain = torch.cat((old, plain), dim=2)
            if frequencies is not None:
                old = rotate(old, _turns(step, unrotated)[:, : old.shape[2]], frequencies)
            seen_keys = torch.cat((old, seen_keys), dim=2)
            values = torch.cat((_pick(self.values, step.gather), value), dim=2)
        self.keys = _with_slots(_pick(plain, step.store), step.slots)
        self.values = _with_slots(_pick(values, step.store), step.slots)
        return seen_keys, values

    def get_seq_length(self, *args: Any) -> int:
        """Tokens seen, not kept: generation continues from here."""
        return self.seen

    def get_mask_sizes(self, query_length: Any, *args: Any) -> tuple[int, int]:
        new = query_length if isinstance(query_length, int) else len(query_length)
        return self.seen + new, 0

    def get_max_length(self) -> int:
        return -1

    get_max_cache_shape = get_max_length  # its name before transformers 5.13

    def reset(self) -> None:
        self.is_initialized, self.seen = False, 0

    def select(self, index: Tensor) -> None:
        if self.is_initialized:
            self.keys = self.keys.index_select(0, index.to(self.keys.device))
            self.values = self.values.index_select(0, index.to(self.values.device))

    @property
    def bytes(self) -> int:
        """Memory of this layer's keys and values, empty slots included."""
        if not self.is_initialized:
            return 0
        return sum(tensor.numel() * tensor.element_size() for tensor in (self.keys, self.values))


def _turns(step: OneToken | Chunk, unrotated: bool) -> Tensor:
    """int64 [batch, entries]: positions to rotate to, from the start of the cache or from the first new token."""
    assert step.places is not None and step.first is not None
    return step.places if unrotated else step.places - step.first


def _pick(states: Tensor, index: Tensor) -> Tensor:
    """states [batch, heads, seq, dim], index [batch, picked] -> [batch, heads, picked, dim]."""
    if index.shape[0] == 1:
        return states.index_select(2, index[0])
    return states.gather(2, index[:, None, :, None].expand(-1, states.shape[1], -1, states.shape[3]))


def _with_slots(states: Tensor, slots: int) -> Tensor:
    """The same entries in `slots` slots; zeros behind them, since garbage times nothing may be no number."""
    used = states.shape[2]
    if used == slots:
        return states
    roomy = states.new_zeros(states.shape[0], states.shape[1], slots, states.shape[3])
    roomy[:, :, : min(used, slots)] = states[:, :, :slots]
    return roomy

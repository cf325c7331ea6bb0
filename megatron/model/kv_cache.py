"""Keys, values and token ids of everything read so far, for decoding step by step.

Ids stay because the rule, bilevel positions and padding are decided by all past tokens, not the newest one.
"""

import torch
from torch import Tensor

_FIRST_CAPACITY = 64


class KVCache:
    """Grows as needed; one object per generation, handed to each forward call."""

    def __init__(self) -> None:
        self._token_ids: Tensor | None = None
        self._first_real: Tensor | None = None
        self._length_before = 0
        self._layers: dict[int, tuple[Tensor, Tensor]] = {}

    @property
    def length(self) -> int:
        """Tokens read so far."""
        return 0 if self._token_ids is None else self._token_ids.shape[1]

    @property
    def first_real(self) -> Tensor | None:
        """int64 [batch], column of the first real token of left-padded rows, as given with the first call."""
        return self._first_real

    def read(self, token_ids: Tensor, first_real: Tensor | None = None) -> Tensor:
        """Append new ids [batch, new]; returns all ids [batch, length]. Called once, before the layers."""
        if self._token_ids is None:
            self._first_real = first_real
            self._token_ids = token_ids
        else:
            if token_ids.shape[0] != self._token_ids.shape[0]:
                raise ValueError(f"The cache holds {self._token_ids.shape[0]} rows, but {token_ids.shape[0]} came.")
            self._length_before = self.length
            self._token_ids = torch.cat((self._token_ids, token_ids), dim=1)
        return self._token_ids

    def append(self, layer: int, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """Append new keys and values [batch, kv_heads, new, head_dim]; returns those of all tokens read."""
        held = self._layers.get(layer)
        if held is None or held[0].shape[2] < self.length:
            held = (self._grown(held and held[0], key), self._grown(held and held[1], value))
            self._layers[layer] = held
        for buffer, new in zip(held, (key, value), strict=True):
            buffer[:, :, self._length_before : self.length] = new
        return held[0][:, :, : self.length], held[1][:, :, : self.length]

    def _grown(self, buffer: Tensor | None, new: Tensor) -> Tensor:
        batch, heads, _, head_dim = new.shape
        capacity = max(_FIRST_CAPACITY, 2 ** (self.length - 1).bit_length())
        larger = new.new_empty(batch, heads, capacity, head_dim)
        if buffer is not None:
            larger[:, :, : self._length_before] = buffer[:, :, : self._length_before]
        return larger

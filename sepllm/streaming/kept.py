"""The cached tokens of a stream: where they stand, and their keys and values in every layer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor


@dataclass
class Kept:
    """Tokens in the order of the text. All tensors on the CPU but keys and values.

    position: int64 [k], place in the text. rank: int64 [k], of the cache policy. angle: int64 [k], position the
    token was given when it was written. keys, values: per layer [1, kv_heads, k, head_dim]; keys unrotated
    where `unrotated`, else as the model wrote them.
    """

    position: Tensor = field(default_factory=lambda: torch.empty(0, dtype=torch.int64))
    rank: Tensor = field(default_factory=lambda: torch.empty(0, dtype=torch.int64))
    angle: Tensor = field(default_factory=lambda: torch.empty(0, dtype=torch.int64))
    keys: list[Tensor] = field(default_factory=list)
    values: list[Tensor] = field(default_factory=list)

    def __len__(self) -> int:
        return self.position.shape[0]

    def append(self, position: Tensor, rank: Tensor, angle: Tensor) -> None:
        """Tokens that were read; their keys and values follow with `append_states`."""
        self.position = torch.cat((self.position, position))
        self.rank = torch.cat((self.rank, rank))
        self.angle = torch.cat((self.angle, angle))

    def append_states(self, keys: Sequence[Tensor], values: Sequence[Tensor]) -> None:
        """Per layer [1, kv_heads, new, head_dim]."""
        if not self.keys:
            self.keys, self.values = list(keys), list(values)
            return
        self.keys = [torch.cat(pair, dim=2) for pair in zip(self.keys, keys, strict=True)]
        self.values = [torch.cat(pair, dim=2) for pair in zip(self.values, values, strict=True)]

    def keep(self, stays: Tensor) -> None:
        """Drop the rest. stays: bool [k]."""
        self.position, self.rank, self.angle = self.position[stays], self.rank[stays], self.angle[stays]
        if self.keys:
            index = stays.nonzero()[:, 0].to(self.keys[0].device)
            self.keys = [keys.index_select(2, index) for keys in self.keys]
            self.values = [values.index_select(2, index) for values in self.values]

    def bytes(self) -> int:
        """Of keys and values."""
        return sum(tensor.nbytes for tensor in (*self.keys, *self.values))

    def tensors(self) -> dict[str, Tensor]:
        """Everything, by name, for a file."""
        named = {"position": self.position, "rank": self.rank, "angle": self.angle}
        for layer, (keys, values) in enumerate(zip(self.keys, self.values, strict=True)):
            named |= {f"keys.{layer}": keys, f"values.{layer}": values}
        return {name: tensor.contiguous() for name, tensor in named.items()}

    @classmethod
    def from_tensors(cls, named: dict[str, Tensor], device: torch.device) -> Kept:
        """The inverse of `tensors`."""
        layers = sum(name.startswith("keys.") for name in named)
        return cls(
            named["position"],
            named["rank"],
            named["angle"],
            [named[f"keys.{layer}"].to(device) for layer in range(layers)],
            [named[f"values.{layer}"].to(device) for layer in range(layers)],
        )

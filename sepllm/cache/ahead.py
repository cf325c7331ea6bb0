"""The next slots of a cache, some dozens of tokens ahead: what leaves is known before what comes.

A token leaves the window w tokens after it came, and pushes out a separator that is known by then. So one look at the
book serves many tokens, and each of them costs three small operations.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

_NEVER = 2**30


@dataclass(eq=False)
class Ahead:
    """slots: int64 [batch, steps], where the next tokens go. fresh: bool [batch, steps], into an empty slot.

    born: int32 [batch, slots], the step from which a slot holds a token. counts: int64 [batch, steps], entries then.
    used: per step, slots that attention sees. full: per step, whether each of them holds a token.
    ids: int64 [batch, steps], the tokens taken so far; taken: how many.
    """

    slots: Tensor
    fresh: Tensor
    born: Tensor
    counts: Tensor
    used: list[int]
    full: list[bool]
    ids: Tensor
    taken: int = 0

    @classmethod
    def of(cls, freed: Tensor, occupied: Tensor, used: int) -> "Ahead":
        """freed: int64 [batch, steps], the slot that is left before a token, or -1; occupied: bool [batch, slots]."""
        fresh = freed < 0
        taken_before = fresh.cumsum(dim=1)
        empty = occupied.to(torch.uint8).argsort(dim=1, stable=True)
        slots = torch.where(fresh, empty.gather(1, (taken_before - 1).clamp(0, empty.shape[1] - 1)), freed)
        counts = occupied.sum(dim=1, keepdim=True) + taken_before
        step = torch.arange(freed.shape[1], dtype=torch.int32, device=freed.device).expand_as(freed)
        born = torch.where(occupied, 0, _NEVER).int().scatter(1, slots, torch.where(fresh, step, 0))
        reach = (slots.amax(dim=0) + 1).clamp(min=used).cummax(dim=0).values
        full = (counts == reach).all(dim=0)
        return cls(slots, fresh, born, counts, reach.tolist(), full.tolist(), torch.zeros_like(slots))

    @property
    def is_spent(self) -> bool:
        return self.taken == len(self.used)

    def take(self, token_ids: Tensor) -> tuple[Tensor, int, Tensor | None]:
        """One more token per row, [batch, 1] -> its slots [batch], slots in use, which hold a token (None: all)."""
        step = self.taken
        self.taken += 1
        self.ids[:, step] = token_ids[:, 0]
        used = self.used[step]
        return self.slots[:, step], used, None if self.full[step] else self.born[:, :used] <= step

    def select(self, index: Tensor) -> None:
        for name in ("slots", "fresh", "born", "counts", "ids"):
            setattr(self, name, getattr(self, name).index_select(0, index))


def slots_at(index: Tensor, valid: Tensor, steps: int) -> Tensor:
    """Which slot has index 0, 1, ...: index and valid [batch, slots] -> int64 [batch, steps], -1 for none."""
    inside = valid & (index >= 0) & (index < steps)
    place = torch.where(inside, index, steps).long()
    table = torch.full((index.shape[0], steps + 1), -1, dtype=torch.int64, device=index.device)
    slot = torch.arange(index.shape[1], device=index.device).expand_as(place)
    return table.scatter_(1, place, slot)[:, :steps]

"""A row driven token by token through the policy's own functions, for comparison with lists and with recorded runs."""

import torch
from torch import Tensor

from sepllm.cache.policy import CacheSizes, beyond_limit, is_due, rank_tokens, survivors


class PolicyRow:
    """Keeps position and rank of what the policy lets live; entries stay in order of position."""

    def __init__(self, sizes: CacheSizes, flags: list[bool]) -> None:
        initial = torch.arange(len(flags)) < sizes.initial
        self.ranks = rank_tokens(initial[None], (initial | torch.tensor(flags, dtype=torch.bool))[None])
        self.sizes = sizes
        self.position = torch.empty(1, 0, dtype=torch.int64)
        self.s = torch.tensor([10**9 if sizes.separators is None else sizes.separators])
        self.c = torch.tensor([sizes.capacity or 0])
        self.since = 0

    def feed(self, prefilling: bool = False) -> list[int]:
        """Take the next token; returns the positions it attends to."""
        token = self.length
        self.position = torch.cat((self.position, torch.tensor([[token]])), dim=1)
        self.length = token + 1
        after = self.sizes.schedule == "lazy_after"
        if not after and not prefilling:
            self._apply()
        attended = self.position[0].tolist()
        if after:
            self._apply()
        return attended

    length = 0

    def _apply(self) -> None:
        if not bool(is_due(self.sizes, torch.tensor([self.position.shape[1]]), self.c)[0]):
            return
        rank, length = self.ranks.gather(1, self.position), torch.tensor([self.length])
        since = 0 if self.sizes.accumulate else self.since
        window = self.sizes.window
        if self.sizes.grow:
            excess = beyond_limit(self.position, rank, length, window, self.s, since)
            self.s, self.c = self.s + excess, self.c + excess
        limit: Tensor | None = None if self.sizes.separators is None else self.s[:, None]
        keep = survivors(self.position, rank, length, window, limit, since)
        self.position = self.position[keep][None]
        self.since = max(0, self.length - window)

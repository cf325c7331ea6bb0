"""The book of a cache: which slot holds which token of each row. Entries in any order; it holds no keys.

Rows of a batch differ in padding, length and separators; each is kept as it would be alone.
"""

import torch
from torch import Tensor
from torch.nn.functional import pad

from sepllm.attention.rule import RuleSettings, token_kinds
from sepllm.cache.ahead import Ahead, slots_at
from sepllm.cache.policy import EMPTY, INITIAL, ORDINARY, CacheSizes, beyond_limit, is_due, rank_tokens, survivors
from sepllm.errors import UnsupportedError

_SLACK = 32  # slots allocated beyond need; a cache that grows is copied once in so many new entries


class Book:
    """position, rank: int32 [batch, slots], see policy.py; the others int32 [batch], sums int64.

    length: real tokens so far. lasting: how many of them outlive the window. limit, capacity: s and c, which may
    grow. applied: length when the rule was last applied. since: where the window began then.
    attended, seen: entries that attention saw and tokens so far, added up over the steps.
    """

    def __init__(self, sizes: CacheSizes, batch: int, device: torch.device) -> None:
        def full(value: int, dtype: torch.dtype = torch.int32) -> Tensor:
            return torch.full((batch,), value, dtype=dtype, device=device)

        self.sizes = sizes
        self.position = torch.empty(batch, 0, dtype=torch.int32, device=device)
        self.rank = torch.empty(batch, 0, dtype=torch.int32, device=device)
        self.length, self.lasting, self.applied, self.since = full(0), full(0), full(0), full(0)
        self.attended, self.seen = full(0, torch.int64), full(0, torch.int64)
        self.limit, self.capacity = full(sizes.separators or 0), full(sizes.capacity or 0)

    def new_tokens(
        self, token_ids: Tensor, real: Tensor | None, config: RuleSettings, layer: int
    ) -> tuple[Tensor, Tensor]:
        """Count new tokens; position and rank, each [batch, new], EMPTY and ORDINARY for padding."""
        real = torch.ones_like(token_ids, dtype=torch.bool) if real is None else real
        position = self.length[:, None] + real.cumsum(dim=1, dtype=torch.int32) - 1
        initial, marked = token_kinds(config, token_ids, position, layer)
        initial, marked = initial & real, marked & real
        rank = rank_tokens(initial, marked, self.lasting[:, None])
        self.lasting = self.lasting + (marked & ~initial).sum(dim=1, dtype=torch.int32)
        self.length = self.length + real.sum(dim=1, dtype=torch.int32)
        return torch.where(real, position, EMPTY), rank

    def counts(self) -> Tensor:
        """int64 [batch]: entries of each row."""
        return (self.position >= 0).sum(dim=1)

    def apply(self, used: int, arriving: int) -> None:
        """Drop what the rule no longer keeps, in the rows where it is due.

        used: slots to look at. arriving: tokens to come, for the first of which the rule is applied.
        """
        sizes, position, rank = self.sizes, self.position[:, :used], self.rank[:, :used]
        length = self.length + arriving
        limit = None if sizes.separators is None else sizes.separators
        if sizes.schedule == "every_token":
            keep = survivors(position, rank, length, sizes.window, limit)
            position.masked_fill_(~keep, EMPTY)
            return
        due = is_due(sizes, (position >= 0).sum(dim=1) + arriving, self.capacity)
        since: Tensor | int = 0 if sizes.accumulate else self.since[:, None]
        if sizes.grow:
            excess = beyond_limit(position, rank, length, sizes.window, self.limit, since) * due
            self.limit, self.capacity = self.limit + excess, self.capacity + excess
        own_limit = None if limit is None else self.limit[:, None]
        keep = survivors(position, rank, length, sizes.window, own_limit, since)
        position.masked_fill_(~keep & due[:, None], EMPTY)
        self.since = torch.where(due, (length - sizes.window).clamp(min=0), self.since)
        self.applied = torch.where(due, length, self.applied)

    def look_ahead(self, used: int, most: int) -> Ahead:
        """The slots of the next tokens, at most `most`; room for them is made. Tokens that leave are not yet struck."""
        freed = self._leaving(used, most)
        occupied = self.position >= 0
        needed = int((occupied.sum(dim=1) + (freed < 0).sum(dim=1)).max())
        if needed > self.position.shape[1]:
            self.resize(self.room(needed))
            occupied = self.position >= 0
        return Ahead.of(freed, occupied, used)

    def _leaving(self, used: int, most: int) -> Tensor:
        """For each of the next tokens the slot that the rule frees before it, or -1: int64 [batch, steps]."""
        sizes, position, rank = self.sizes, self.position[:, :used], self.rank[:, :used]
        if sizes.schedule != "every_token":
            # Nothing leaves until the rule is due again.
            spare = self.capacity - self.counts() + (1 if sizes.schedule == "lazy_after" else -1)
            steps = max(1, min(most, int(spare.min())))
            return torch.full((position.shape[0], steps), -1, dtype=torch.int64, device=position.device)
        steps = min(most, sizes.window)
        leaver = slots_at(position - (self.length - sizes.window)[:, None], position >= 0, steps)
        leaver_rank = rank.gather(1, leaver.clamp(min=0)).masked_fill(leaver < 0, INITIAL)
        freed = leaver.masked_fill(leaver_rank != ORDINARY, -1)
        if sizes.separators is None:
            return freed
        # A separator that leaves the window pushes out the one with s newer ones beyond the window, itself if s is 0.
        lasting = (leaver_rank != ORDINARY) & (leaver_rank != INITIAL)
        first = leaver_rank.masked_fill(~lasting, INITIAL).amin(dim=1, keepdim=True)
        separator = (rank > ORDINARY) & (rank != INITIAL) & (position >= 0)
        pushed = slots_at(rank - (first - sizes.separators), separator, steps)
        return torch.where(lasting, pushed.gather(1, (leaver_rank - first).clamp(0, steps - 1).long()), freed)

    def enter(self, ahead: Ahead, config: RuleSettings, layer: int) -> None:
        """Write down the tokens that were taken."""
        taken = ahead.taken
        if not taken:
            return
        self.attended += ahead.counts[:, :taken].sum(dim=1)
        self.seen += taken * self.length + taken * (taken + 1) // 2
        position, rank = self.new_tokens(ahead.ids[:, :taken], None, config, layer)
        self.position.scatter_(1, ahead.slots[:, :taken], position)
        self.rank.scatter_(1, ahead.slots[:, :taken], rank)

    def room(self, used: int) -> int:
        """Slots for `used` entries and some more, but no more than will ever be needed."""
        slots, most = used + max(_SLACK, used // _SLACK), self.sizes.most
        return slots if most is None else max(used, min(slots, most))

    def oldest_first(self, used: int) -> Tensor | None:
        """int64 [batch, most entries of a row]: slots in order of position, empty ones in front; None: no entries."""
        if not used:
            return None
        cached = int(self.counts().max())
        return self.position[:, :used].argsort(dim=1)[:, used - cached :]

    def join(self, gather: Tensor | None, position: Tensor, rank: Tensor) -> None:
        """Lay the entries out as `gather` says, with new ones behind them."""
        if gather is not None:
            position = torch.cat((self.position.gather(1, gather), position), dim=1)
            rank = torch.cat((self.rank.gather(1, gather), rank), dim=1)
        self.position, self.rank = position, rank

    def pack(self) -> Tensor:
        """Bring entries to the front, in the order in which they stand; int64 [batch, used]: where each came from."""
        empty = self.position < 0
        used = max(1, int((~empty).sum(dim=1).max()))
        index = empty.long().argsort(dim=1, stable=True)[:, :used]
        self.position, self.rank = self.position.gather(1, index), self.rank.gather(1, index)
        return index

    def resize(self, slots: int) -> None:
        more = slots - self.position.shape[1]
        self.position, self.rank = pad(self.position, (0, more), value=EMPTY), pad(self.rank, (0, more), value=ORDINARY)

    def tally(self, used: int) -> Tensor:
        """bool [batch, used]: the slots that attention sees now; counts them for the statistics."""
        occupied = self.position[:, :used] >= 0
        self.attended += occupied.sum(dim=1)
        self.seen += self.length
        return occupied

    def select(self, index: Tensor) -> None:
        for name, value in vars(self).items():
            if isinstance(value, Tensor):
                setattr(self, name, value.index_select(0, index.to(value.device)))

    def crop(self, remove: int) -> None:
        """Forget the newest tokens of every row, if the rest is then what it was before them."""
        length = self.length - remove
        keep = (self.position >= 0) & (self.position < length[:, None])
        position = torch.where(keep, self.position, EMPTY)
        if not bool(self._is_complete(position, length).all()):
            raise UnsupportedError(
                f"Cannot take back {remove} tokens: what those before them saw was dropped from this cache meanwhile. "
                "Generate without assistant or prompt look-up, or start from a cache that was reset."
            )
        self.position, self.length = position, length
        lasting = torch.where(keep & (self.rank != INITIAL), self.rank, ORDINARY)
        self.lasting = lasting.amax(dim=1) + 1

    def _is_complete(self, position: Tensor, length: Tensor) -> Tensor:
        """bool [batch]: whether nothing is missing that rows of this length would hold."""
        if self.sizes.schedule != "every_token":
            return (self.applied <= length) & (length >= 0)
        border = (length - self.sizes.window).clamp(min=0)[:, None]
        near = (position >= border).sum(dim=1)
        far = (position >= 0) & (position < border) & (self.rank > ORDINARY) & (self.rank != INITIAL)
        newest = torch.where(far, self.rank, ORDINARY).amax(dim=1)
        wanted = newest + 1 if self.sizes.separators is None else (newest + 1).clamp(max=self.sizes.separators)
        return (near == length - border[:, 0]) & (far.sum(dim=1) >= wanted) & (length >= 0)

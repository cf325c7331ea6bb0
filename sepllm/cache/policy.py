"""Which cached tokens survive: pure functions of positions, in the paper's letters. No tensor of keys is touched here.

A row of a cache is described by two integers per entry: its position in the row, and its rank among the tokens
that outlive the window. Three schedules decide when the rule is applied; between two applications everything that
is cached is visible. All functions take batches of rows, and entries in any order.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from sepllm.attention.rule import may_look
from sepllm.errors import ConfigError, did_you_mean

# every_token: the mask rule itself, applied before each token attends.
# lazy: before a token attends that would be the c-th in the cache, or a later one (SepCache).
# lazy_after: after a token attended and left more than c in the cache (the streaming evaluation of the paper).
SCHEDULES = ("every_token", "lazy", "lazy_after")

ORDINARY = -1  # rank of a token that nothing keeps beyond the window, and of an empty entry
INITIAL = 2**30  # rank of a token that always stays
EMPTY = -1  # position of an empty entry


@dataclass(frozen=True)
class CacheSizes:
    """What one layer keeps: a initial tokens, the newest s separators (None: all), w window tokens, at most c.

    accumulate: separators stay until s newer ones push them out; False: each application of the rule keeps only
        those that left the window since the last one.
    grow: instead of dropping separators beyond s, let s and c grow by their number.
    Raises ConfigError for sizes that leave no room to work.
    """

    initial: int
    separators: int | None
    window: int
    capacity: int | None = None
    schedule: str = "every_token"
    accumulate: bool = True
    grow: bool = False

    def __post_init__(self) -> None:
        if self.schedule not in SCHEDULES:
            raise ConfigError(
                f"schedule is {self.schedule!r}; known are {', '.join(SCHEDULES)}. "
                f"{did_you_mean(str(self.schedule), SCHEDULES)}"
            )
        least = {"initial": 0, "separators": 0, "window": 1, "capacity": 1}
        for name, lowest in least.items():
            value = getattr(self, name)
            optional = name in ("separators", "capacity")
            if value is None and optional:
                continue
            if isinstance(value, bool) or not isinstance(value, int) or value < lowest:
                raise ConfigError(f"{name} of a cache is {value!r}; expected a whole number of {lowest} or more.")
        self._check_schedule()

    def _check_schedule(self) -> None:
        if self.schedule == "every_token":
            if not self.accumulate or self.grow:
                raise ConfigError(
                    "Schedule 'every_token' is the mask rule: it accumulates separators and keeps at most s of them. "
                    "Growing limits and separators of the last stretch alone belong to the lazy schedules."
                )
            return
        if self.capacity is None:
            raise ConfigError(f"Schedule {self.schedule!r} needs a capacity: it compresses when the cache is full.")
        if self.schedule == "lazy":
            least = self.initial + (self.separators or 0) + self.window + 1
        else:
            least = self.initial + (self.separators or 0) + self.window + (1 if self.separators else 0)
        if self.capacity < least:
            raise ConfigError(
                f"capacity is {self.capacity}, too small for initial {self.initial} + separators "
                f"{self.separators or 0} + window {self.window}: schedule {self.schedule!r} needs {least} or more."
            )

    @property
    def most(self) -> int | None:
        """Most entries a row holds while a token attends; None: no bound."""
        if self.separators is None or self.grow:
            return None
        if self.schedule == "every_token":
            return self.initial + self.separators + self.window
        assert self.capacity is not None
        return self.capacity + (1 if self.schedule == "lazy_after" else -1)


def rank_tokens(initial: Tensor, marked: Tensor, before: Tensor | int = 0) -> Tensor:
    """Rank of each token: INITIAL, ORDINARY, or how many separators of its row stand before it.

    initial, marked: bool [batch, seq]; before: separators of each row so far, [batch, 1] -> int32 [batch, seq].
    """
    lasting = marked & ~initial
    rank = lasting.cumsum(dim=-1, dtype=torch.int32) - 1 + before
    return torch.where(initial, INITIAL, torch.where(lasting, rank, ORDINARY)).int()


def visible(query: Tensor, position: Tensor, rank: Tensor, window: int, limit: Tensor | int | None) -> Tensor:
    """The rule for entries of a cache: True where a query may look at an entry.

    query: positions, broadcasts to [batch, q, 1]; position, rank: of the entries, broadcast to [batch, 1, k];
    limit: s, broadcasts to [batch, 1, 1], None: all -> bool [batch, q, k].
    """
    lasting = rank > ORDINARY
    if limit is not None:
        separator = lasting & (rank != INITIAL)
        newest = torch.where(separator & (position <= query - window), rank, ORDINARY).amax(dim=-1, keepdim=True)
        lasting = (rank == INITIAL) | (separator & (rank > newest - limit))
    return may_look(query, position, lasting, 0, window)


def survivors(
    position: Tensor, rank: Tensor, length: Tensor, window: int, limit: Tensor | int | None, since: Tensor | int = 0
) -> Tensor:
    """What stays cached when the rule is applied to rows of `length` tokens: what the newest of them may look at.

    position, rank: [batch, k]; length: [batch] tokens of each row so far, the newest included;
    limit: s, [batch, 1] where it differs, None: all; since: only separators at or after this position count,
    [batch, 1] where it differs (accumulate=False: where the window began at the last application)
    -> bool [batch, k]; what it says of empty entries has no meaning.
    """
    if not isinstance(since, int) or since:
        rank = rank.masked_fill((position < since) & (rank != INITIAL), ORDINARY)
    near = position >= (length - window)[:, None]
    if limit is None:
        return near | (rank > ORDINARY)
    # Separators are numbered without gaps, so the newest beyond the window tells which are the newest s.
    newest = rank.masked_fill(near | (rank == INITIAL), ORDINARY).amax(dim=-1, keepdim=True)
    return near | (rank > (newest - limit).clamp_(min=ORDINARY))


def is_due(sizes: CacheSizes, cached: Tensor, capacity: Tensor | int) -> Tensor:
    """Whether the rule is applied now. Asked with the newest token counted among the cached ones.

    "every_token" and "lazy" ask before that token attends, "lazy_after" after it did.
    cached: [batch] entries of each row; capacity: c, [batch] where it has grown -> bool [batch].
    """
    if sizes.schedule == "every_token":
        return torch.ones_like(cached, dtype=torch.bool)
    return cached >= capacity if sizes.schedule == "lazy" else cached > capacity


def beyond_limit(
    position: Tensor, rank: Tensor, length: Tensor, window: int, limit: Tensor, since: Tensor | int
) -> Tensor:
    """By how many separators the block beyond the window exceeds s: what s and c grow by. Arguments as in survivors.

    limit: [batch] -> int64 [batch].
    """
    outside = (position < length[:, None] - window) & (position >= since) & (rank > ORDINARY) & (rank != INITIAL)
    return (outside.sum(dim=-1) - limit).clamp(min=0)

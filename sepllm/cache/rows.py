"""What the layers of a cache have to do with the next tokens; decided once for all layers with equal sizes.

A token that leaves frees its slot and the next token takes it, so that nothing is moved while single tokens are
generated. It holds no keys.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from sepllm.attention.plan import Plan
from sepllm.attention.rule import Marks, RuleSettings
from sepllm.cache.ahead import Ahead
from sepllm.cache.book import Book
from sepllm.cache.policy import INITIAL, ORDINARY, CacheSizes
from sepllm.cache.position_shift import cache_places

_LOOK_AHEAD = 64  # tokens for which the book is read at once


@dataclass(frozen=True, eq=False)
class OneToken:
    """What every layer does with one more token per row.

    slots: to be allocated. repack: int64 [batch, used] slots to gather first, or None.
    slot: int64 [batch], where the token goes. used: slots that attention sees.
    keep: bool [batch, used], slots that hold a token, or None when all do.
    order: int64 [batch, entries], slots oldest first, where attention wants them so: keep and places then follow it.
    places: int64 [batch, used], place of each entry among those cached, where positions are shifted;
    first: int64 [batch, 1], place of the first new token.
    """

    slots: int
    repack: Tensor | None
    slot: Tensor
    used: int
    keep: Tensor | None
    order: Tensor | None = None
    places: Tensor | None = None
    first: Tensor | None = None


@dataclass(frozen=True, eq=False)
class Chunk:
    """What every layer does with several new tokens: attention over [cached, oldest first | new], then storing.

    gather: int64 [batch, cached], slots in order of position, fillers in front; None: nothing is cached.
    plan: for the joined sequence. store: int64 [batch, used], its columns that go to slots 0, 1, ...
    slots, used, places (of the joined sequence), first: as above.
    """

    slots: int
    gather: Tensor | None
    plan: Plan
    store: Tensor
    used: int
    places: Tensor | None = None
    first: Tensor | None = None


Step = OneToken | Chunk


class Rows:
    """The rows of one batch in the layers with equal sizes; see CacheSizes for what is kept.

    config, layer: which tokens are initial or separators. shifting: rotary positions are places in the cache.
    columns: tokens seen, padding included. waits_for_text: some row has been padding alone so far.
    slots: allocated, used: of which attention sees the first so many.
    """

    def __init__(self, sizes: CacheSizes, config: RuleSettings, layer: int, shifting: bool = False) -> None:
        self.sizes, self.config, self.layer, self.shifting = sizes, config, layer, shifting
        self.reset()

    def reset(self) -> None:
        self.columns = self.slots = self.used = 0
        self.step: Step | None = None
        self._known_book: Book | None = None
        self._ahead: Ahead | None = None
        self._after_chunk = False
        self.waits_for_text = True

    def feed(
        self,
        token_ids: Tensor,
        real: Tensor | None = None,
        prefilling: bool | None = None,
        ordered: bool = False,
    ) -> Step:
        """Take the next tokens of every row.

        token_ids: int64 [batch, new]; real: bool [batch, new], False for padding in front, None: no padding;
        prefilling: the lazy schedules compress before single tokens alone, so a prompt is stored whole.
        None: more than one token. ordered: attention wants cached tokens oldest first, and none that left.
        """
        batch, new = token_ids.shape
        prefilling = new > 1 if prefilling is None else prefilling
        if self._known_book is None:
            self._known_book = Book(self.sizes, batch, token_ids.device)
        self.columns += new
        single = new == 1 and not prefilling and real is None and self.used > 0
        self.step = self._one_token(token_ids, ordered) if single else self._chunk(token_ids, real, prefilling)
        return self.step

    def _one_token(self, token_ids: Tensor, ordered: bool) -> OneToken:
        repack = None
        if self._ahead is None or self._ahead.is_spent:
            book = self._book
            if self.sizes.schedule == "lazy":
                book.apply(self.used, arriving=1)
            repack = self._give_back() if self._after_chunk else None
            self._after_chunk = False
            self._ahead = book.look_ahead(self.used, 1 if ordered or self.shifting else _LOOK_AHEAD)
            self.slots = book.position.shape[1]
        slot, self.used, keep = self._ahead.take(token_ids)
        if ordered or self.shifting:
            return self._with_places(slot, repack, ordered)
        return OneToken(self.slots, repack, slot, self.used, keep)

    def _with_places(self, slot: Tensor, repack: Tensor | None, ordered: bool) -> OneToken:
        """Where places in the cache are asked for: the book is read after every token."""
        assert self._ahead is not None and self._known_book is not None
        book = self._known_book
        book.enter(self._ahead, self.config, self.layer)
        self._ahead = None
        position = book.position[:, : self.used]
        places = cache_places(position) if self.shifting else None
        order = book.oldest_first(self.used) if ordered else None
        occupied = position >= 0
        if order is not None:
            occupied = occupied.gather(1, order)
            places = None if places is None else places.gather(1, order)
        first = None if places is None else places.amax(dim=1, keepdim=True)
        keep = None if bool(occupied.all()) else occupied
        step = OneToken(self.slots, repack, slot, self.used, keep, order, places, first)
        if self.sizes.schedule == "lazy_after":
            book.apply(self.used, arriving=0)
        return step

    def _chunk(self, token_ids: Tensor, real: Tensor | None, prefilling: bool) -> Chunk:
        book, sizes = self._book, self.sizes
        if sizes.schedule == "lazy" and not prefilling and self.used:
            book.apply(self.used, arriving=1)
        position, rank = book.new_tokens(token_ids, real, self.config, self.layer)
        gather = book.oldest_first(self.used)
        book.join(gather, position, rank)
        plan = self._plan(book.position, book.rank)
        occupied = book.tally(plan.seq)
        places = (occupied.long().cumsum(dim=1) - 1).clamp(min=0) if self.shifting else None
        first = occupied[:, : plan.seq - token_ids.shape[1]].sum(dim=1, keepdim=True)
        if sizes.schedule != "lazy":
            book.apply(plan.seq, arriving=0)
        store = book.pack()
        self.used = store.shape[1]
        self.slots = book.room(self.used)
        book.resize(self.slots)
        self._after_chunk = True
        self.waits_for_text = bool((book.length == 0).any())
        return Chunk(self.slots, gather, plan, store, self.used, places, first)

    def _plan(self, position: Tensor, rank: Tensor) -> Plan:
        """The rule for the joined sequence: whatever is cached beyond the window is marked, so places may be counted.

        position, rank: [batch, seq], empty entries in front.
        """
        batch, seq = position.shape
        empty = (position < 0).sum(dim=1)
        padding = empty if bool(empty.any()) else None
        start = None if padding is None else torch.minimum(empty[:, None], torch.arange(seq, device=empty.device))
        window = min(self.sizes.window, seq)
        if window == seq or self.sizes.schedule != "every_token":
            return Plan(batch, seq, Marks(seq, torch.zeros_like(position, dtype=torch.bool), start), True, padding)
        marked, initial, limit = rank > ORDINARY, rank == INITIAL, self.sizes.separators
        if limit is None:
            return Plan(batch, seq, Marks(window, marked, start), False, padding)
        counted = (marked & ~initial).long().cumsum(dim=1)
        return Plan(batch, seq, Marks(window, marked, start, limit, initial, counted), False, padding)

    def _give_back(self) -> Tensor | None:
        """After a long prompt was compressed at once: slots to gather, so that the rest can be given back."""
        book = self._book
        needed = int(book.counts().max())
        if 2 * needed > self.used:
            return None
        index = book.pack()
        self.used = index.shape[1]
        book.resize(book.room(self.used + 1))
        return index

    @property
    def book(self) -> Book | None:
        """The book with all tokens entered, or None before the first."""
        return None if self._known_book is None else self._book

    @property
    def _book(self) -> Book:
        book = self._known_book
        assert book is not None
        if self._ahead is not None:
            book.enter(self._ahead, self.config, self.layer)
            self._ahead = None
            if self.sizes.schedule == "lazy_after":
                book.apply(self.used, arriving=0)
        return book

    def select(self, index: Tensor) -> None:
        """Rows by number, int64 [rows]: for beams, and for batches that change."""
        for part in (self._known_book, self._ahead):
            if part is not None:
                part.select(index)
        self.step = None

    def crop(self, remove: int) -> None:
        """Forget the newest `remove` columns. Raises UnsupportedError where a token needed again was dropped."""
        if remove and self._known_book is not None:
            self._book.crop(remove)
            self.columns -= remove
            self.step = None

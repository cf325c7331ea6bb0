"""Which positions of a text each rank of a context group holds."""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from sepllm.errors import ConfigError, ShapeError, did_you_mean


@dataclass(frozen=True)
class Split:
    """A text of `seq` positions cut over ranks.

    stretches: for each rank its stretches (first, last + 1) in the order of the text, which is also the order in
    which a rank's tensors hold them. Together they are the whole text, none is empty, no two of a rank touch.
    """

    seq: int
    stretches: tuple[tuple[tuple[int, int], ...], ...]

    @property
    def ranks(self) -> int:
        return len(self.stretches)

    def length(self, rank: int) -> int:
        """How many positions the rank holds."""
        return sum(end - first for first, end in self.stretches[rank])

    def positions(self, rank: int, device: torch.device | str | None = None) -> Tensor:
        """int64 [length]: the positions of the text that the rank holds, in its own order."""
        return torch.cat([torch.arange(first, end, device=device) for first, end in self.stretches[rank]])


def split_text(seq: int, ranks: int, kind: str = "zigzag") -> Split:
    """Cut `seq` positions over `ranks` ranks.

    "zigzag": twice as many parts as ranks; rank r holds part r from the front and part r from the back, so that
    every rank has as many late tokens, which see much, as early ones, which see little. "contiguous": one part each.
    Parts differ by at most one token. Raises ShapeError for a text with fewer tokens than parts.
    """
    if kind not in _KINDS:
        raise ConfigError(f"kind is {kind!r}; known are {', '.join(_KINDS)}. {did_you_mean(kind, _KINDS)}")
    return Split(seq, _KINDS[kind](seq, ranks))


Stretches = tuple[tuple[tuple[int, int], ...], ...]


def _contiguous(seq: int, ranks: int) -> Stretches:
    parts = _parts(seq, ranks)
    return tuple((part,) for part in parts)


def _zigzag(seq: int, ranks: int) -> Stretches:
    parts = _parts(seq, 2 * ranks)
    pairs = [(parts[rank], parts[-1 - rank]) for rank in range(ranks)]
    return tuple(((a[0], b[1]),) if a[1] == b[0] else (a, b) for a, b in pairs)


def _parts(seq: int, count: int) -> list[tuple[int, int]]:
    if seq < count:
        raise ShapeError(f"A text of {seq} tokens cannot be cut into {count} parts. Use fewer ranks.")
    bounds = [seq * number // count for number in range(count + 1)]
    return list(pairwise(bounds))


_KINDS: dict[str, Callable[[int, int], Stretches]] = {"zigzag": _zigzag, "contiguous": _contiguous}

"""What a cache holds and held, measured rather than computed from sizes."""

from dataclasses import dataclass


@dataclass(frozen=True)
class CacheStatistics:
    """bytes: of keys and values, empty slots included. dense_bytes: of the same tokens if none were dropped.

    tokens: entries per layer, averaged over the rows. seen: tokens so far per row on average, padding excluded.
    ratio: over the steps so far, entries that attention saw against tokens there were; one per layer.
    """

    bytes: int
    dense_bytes: int
    tokens: list[float]
    seen: float
    ratio: list[float]

    def __str__(self) -> str:
        kept = sum(self.tokens) / max(len(self.tokens), 1)
        share = f"{self.bytes / self.dense_bytes:.1%}" if self.dense_bytes else "-"
        return f"{kept:.0f} of {self.seen:.0f} tokens a layer, {self.bytes / 2**20:.1f} MiB, {share} of a dense cache"

"""One row of a compressing cache as a Python list that is cut and glued. Slow on purpose."""

from sepllm.cache.policy import CacheSizes


class ListCache:
    """Positions cached, oldest first: [initial | separator block | the rest]."""

    def __init__(self, sizes: CacheSizes) -> None:
        self.sizes = sizes
        self.entries: list[int] = []
        self.flags: list[bool] = []
        self.block = 0
        self.s, self.c = sizes.separators, sizes.capacity

    def feed(self, is_separator: bool, prefilling: bool = False) -> list[int]:
        """Take one more token; returns the positions it attends to."""
        self.entries.append(len(self.flags))
        self.flags.append(is_separator)
        schedule = self.sizes.schedule
        if schedule == "every_token" or (schedule == "lazy" and not prefilling and len(self.entries) >= self.c):
            self.compress()
        attended = list(self.entries)
        if schedule == "lazy_after" and len(self.entries) > self.c:
            self.compress()
        return attended

    def compress(self) -> None:
        """[first a | separators of the old block and of what left the window | last w]."""
        a, w = self.sizes.initial, self.sizes.window
        tail = [entry for entry in self.entries if entry >= a][-w:]
        middle = [entry for entry in self.entries if entry >= a][:-w]
        old, past = middle[: self.block], middle[self.block :]
        block = (old if self.sizes.accumulate else []) + [entry for entry in past if self.flags[entry]]
        if self.s is not None:
            if self.sizes.grow:
                excess = max(0, len(block) - self.s)
                self.s, self.c = self.s + excess, self.c + excess
            else:
                block = block[len(block) - self.s :] if len(block) > self.s else block
        # A window that reaches into the initial tokens holds them too: count tokens, not slots.
        if self.sizes.schedule == "every_token":
            newest = len(self.flags) - 1
            tail = [entry for entry in tail if newest - entry < w]
        self.block = len(block)
        self.entries = [entry for entry in self.entries if entry < a] + block + tail

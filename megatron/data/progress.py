"""How far long work over files has come: a line on stderr every few seconds, with GB/s and the time left."""

import sys
import threading
import time


class ByteProgress:
    """Counts bytes from any thread; silent for work that is done before the first `interval` is over.

    total_bytes: of all the work.  label: first word of the lines.  interval: seconds between lines.
    """

    def __init__(self, total_bytes: int, label: str, interval: float = 2.0) -> None:
        self.total_bytes, self.label, self.interval = total_bytes, label, interval
        self.done_bytes = 0
        self.started = time.monotonic()
        self._next_line = self.started + interval
        self._lock = threading.Lock()

    @property
    def seconds(self) -> float:
        return max(time.monotonic() - self.started, 1e-9)

    @property
    def gigabytes_per_second(self) -> float:
        return self.done_bytes / 1e9 / self.seconds

    def add(self, num_bytes: int) -> None:
        with self._lock:
            self.done_bytes += num_bytes
            now = time.monotonic()
            if now < self._next_line:
                return
            self._next_line = now + self.interval
            print(self.line(), file=sys.stderr, flush=True)

    def line(self) -> str:
        """For example "unshard  42%  34.9 of 83.1 GB  1.20 GB/s  ETA 0:00:40"."""
        share = self.done_bytes / max(1, self.total_bytes)
        left = round(self.seconds * (1 - share) / share) if share else 0
        clock = f"{left // 3600}:{left // 60 % 60:02d}:{left % 60:02d}"
        return (
            f"{self.label} {share:4.0%}  {self.done_bytes / 1e9:.2f} of {self.total_bytes / 1e9:.2f} GB  "
            f"{self.gigabytes_per_second:.2f} GB/s  ETA {clock}"
        )

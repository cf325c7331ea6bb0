"""All trackers of a run behind one door: each works in a thread of its own, and training never waits for it.

A tracker that fails is switched off with one warning. One that hangs is left behind: its queue fills, further figures
are dropped and counted, and the end of the run waits for it no longer than its patience.
"""

import contextlib
import logging
import math
import queue
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from megatron.launcher.entry import leave_without_waiting
from megatron.monitor.set_loss import SetLoss
from megatron.monitor.step_result import StepResult
from megatron.monitor.tags import step_scalars, validation_scalars

_logger = logging.getLogger(__name__)

_QUEUED = 10_000
PATIENCE = 30.0
_AFTER_A_FAULT = 3.0  # the launcher ends what is left of a failed run soon


class Sink(Protocol):
    """One tracker. Built where the run starts, raising SettingsError for what is missing; the rest is called in turn
    in a thread of its own, may take its time, and may raise."""

    name: str

    def start(self) -> None:
        """Reach the server, open files; called before the first figures."""

    def scalars(self, values: Mapping[str, float], iteration: int) -> None:
        """Record values under their tags."""

    def rewind(self, iteration: int) -> None:
        """The run continues after this step: what was recorded of later ones is taken back."""

    def close(self, failed: bool) -> None:
        """Hand everything over; the run ends. failed: by a fault."""


class Trackers:
    """Hands on what it gets and returns at once."""

    def __init__(self, sinks: Sequence[Sink], patience: float = PATIENCE, queued: int = _QUEUED) -> None:
        """patience: seconds that `close` waits for all trackers together. queued: calls that a slow one may be late."""
        self._workers = [_Worker(sink, queued) for sink in sinks]
        self._patience = patience

    def step(self, result: StepResult) -> None:
        """Record one step."""
        if self._workers:
            self.scalars(step_scalars(result), result.iteration)

    def validation(self, result: SetLoss, iteration: int) -> None:
        """Record one evaluation."""
        self.scalars(validation_scalars(result), iteration)

    def scalars(self, values: Mapping[str, float], iteration: int) -> None:
        """Record anything else under its tag."""
        values = dict(values)
        for worker in self._workers:
            worker.call(lambda sink: sink.scalars(values, iteration))

    def rewind(self, iteration: int) -> None:
        """The run continues after this step."""
        for worker in self._workers:
            worker.call(lambda sink: sink.rewind(iteration))

    def close(self, failed: bool = False) -> None:
        """End all of them; calling it twice is harmless. failed: by a fault, after which there is less time."""
        patience = min(self._patience, _AFTER_A_FAULT) if failed else self._patience
        workers, self._workers = self._workers, []
        for worker in workers:
            worker.end(failed)
        deadline = time.monotonic() + patience
        for worker in workers:
            if not worker.ended(min(deadline, worker.busy_since() + patience)):
                _logger.warning("%s did not take its last figures within %.0f s.", worker.name, patience)
                leave_without_waiting()


class _Worker:
    """One tracker and its thread; the thread starts with the first call, so a run that never begins leaves nothing."""

    def __init__(self, sink: Sink, queued: int) -> None:
        self._sink = sink
        self.name = sink.name
        self._calls: queue.Queue[Callable[[Sink], None] | None] = queue.Queue(queued)
        self._thread = threading.Thread(target=self._work, name=f"tracker {sink.name}", daemon=True)
        self._begun = self._off = False
        self._dropped = 0
        self._busy_since = math.inf

    def call(self, call: Callable[[Sink], None]) -> None:
        if self._off:
            return
        if not self._begun:
            self._begun = True
            self._thread.start()
        try:
            self._calls.put_nowait(call)
        except queue.Full:
            self._dropped += 1
            if self._dropped == 1:
                _logger.warning("%s is %d reports late: those that follow are dropped.", self.name, self._calls.maxsize)

    def end(self, failed: bool) -> None:
        """Ask the thread to close the tracker after what is queued; where that is too much, the queue makes room."""
        if not self._begun:
            return
        for last in (lambda sink: sink.close(failed), None):
            while True:
                try:
                    self._calls.put_nowait(last)
                    break
                except queue.Full:
                    with contextlib.suppress(queue.Empty):
                        self._calls.get_nowait()
                        self._dropped += 1

    def busy_since(self) -> float:
        """time.monotonic() when the call under way began; what already hangs needs no second wait."""
        return self._busy_since

    def ended(self, deadline: float) -> bool:
        """Whether the thread is done by then."""
        if self._begun:
            self._thread.join(max(0.0, deadline - time.monotonic()))
            if self._dropped:
                _logger.warning("%s misses %d reports.", self.name, self._dropped)
        return not self._thread.is_alive()

    def _work(self) -> None:
        try:
            self._busy_since = time.monotonic()
            self._sink.start()
            self._busy_since = math.inf
            while (call := self._calls.get()) is not None:
                self._busy_since = time.monotonic()
                call(self._sink)
                self._busy_since = math.inf
        except Exception as error:
            self._off = True
            _logger.warning("%s failed and is off from here on; the run goes on: %s", self.name, error)

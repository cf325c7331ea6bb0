"""What the ranks agree on at a step edge: whether a stop signal came to any, and whether a save in the background
failed on any. Signals are noted when they come and answered there."""

import signal
from dataclasses import dataclass

import torch
import torch.distributed as dist

from megatron.mpu.parallel_state import ParallelState

_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)


@dataclass(frozen=True)
class Agreement:
    """The same on every rank. signal: the name of one that any rank received."""

    signal: str | None
    save_failed: bool


class StopFlag:
    """Remembers a stop signal; `agreed()` is the same answer on every rank."""

    def __init__(self, parallel: ParallelState, device: torch.device) -> None:
        self._parallel = parallel
        self._device = device
        self._received: int | None = None
        for number in _SIGNALS:
            signal.signal(number, self._note)

    def _note(self, number: int, frame: object) -> None:
        self._received = number

    def agreed(self, save_failed: bool = False) -> Agreement:
        """A collective: every rank must call it. save_failed: on this rank."""
        own = torch.tensor([self._received or 0, int(save_failed)], dtype=torch.int32, device=self._device)
        if self._parallel.world_size > 1:
            dist.all_reduce(own, op=dist.ReduceOp.MAX)
        number, failed = own.tolist()
        return Agreement(signal.Signals(number).name if number else None, bool(failed))

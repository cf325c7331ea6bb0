"""Stop requests: signals are noted, and all ranks agree at a step edge whether to save and leave."""

import signal

import torch
import torch.distributed as dist

from megatron.mpu.parallel_state import ParallelState

_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)


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

    def agreed(self) -> str | None:
        """Name of the signal that any rank received, or None. A collective: every rank must call it."""
        own = torch.tensor([self._received or 0], dtype=torch.int32, device=self._device)
        if self._parallel.world_size > 1:
            dist.all_reduce(own, op=dist.ReduceOp.MAX)
        number = int(own.item())
        return signal.Signals(number).name if number else None

"""Acting as one: what fails on one rank fails on all, and one rank's answer is everybody's."""

import os
import shutil
import socket
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import torch.distributed as dist

from megatron.errors import CheckpointError, UserError
from megatron.mpu.parallel_state import ParallelState

T = TypeVar("T")


@dataclass(frozen=True)
class Together:
    """All ranks. group: None for the world; a background thread needs a group of its own."""

    rank: int = 0
    world_size: int = 1
    group: Any = None

    @classmethod
    def of(cls, parallel: ParallelState, group: Any = None) -> "Together":
        return cls(parallel.rank, parallel.world_size, group)

    def gather(self, own: T) -> list[T]:
        """Every rank's value, by rank, on every rank."""
        if self.world_size == 1:
            return [own]
        gathered: list[Any] = [None] * self.world_size
        dist.all_gather_object(gathered, own, group=self.group)
        return gathered

    def run(self, action: Callable[[], T], *, only: int | None = None) -> T | None:
        """Run `action` on every rank (or on rank `only`); if any failed, all raise: nobody waits for a failed peer.

        A UserError becomes everybody's as it is; any other exception becomes a CheckpointError that names rank and
        host, and for a failed write the bytes that are free there.
        """
        result: T | None = None
        problem: UserError | None = None
        try:
            if only in (None, self.rank):
                result = action()
        except UserError as error:
            problem = error
        except OSError as error:
            problem = CheckpointError(f"{self._who()}: {_described(error)}")
        except Exception as error:
            text = "".join(traceback.format_exception(error))
            problem = CheckpointError(f"{self._who()}: {type(error).__name__}: {error}\n{text}")
        problems = [one for one in self.gather(problem) if one is not None]
        if problems:
            raise problems[0]
        return result

    def from_zero(self, action: Callable[[], T]) -> T:
        """Rank 0's result of `action`, or its error, on every rank."""
        result = self.run(action, only=0)
        return self.gather(result)[0]  # type: ignore[return-value]  # rank 0 has one

    def _who(self) -> str:
        return f"rank {self.rank} on {socket.gethostname()}"


def _described(error: OSError) -> str:
    """The system's reason with the path, and how much room is left there."""
    path = error.filename
    while isinstance(path, str) and path and not os.path.exists(path):
        path = os.path.dirname(path)
    room = f"; {shutil.disk_usage(path).free:,} bytes are free there" if isinstance(path, str) and path else ""
    return f"{error}{room}"

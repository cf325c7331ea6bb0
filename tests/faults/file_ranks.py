"""Ranks as forked processes that gather through files instead of gloo: dozens of multi-rank saves in seconds.

What is under test, the order of a save over several ranks, is the real writer; only the transport is another.
"""

import os
import pickle
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from megatron.checkpointing.together import Together

T = TypeVar("T")


@dataclass(frozen=True)
class FileTogether(Together):
    """The n-th gather of each rank meets in a folder `n`."""

    folder: Path = Path()
    calls: list[int] = field(default_factory=list)

    def gather(self, own: T) -> list[T]:
        here = self.folder / str(len(self.calls))
        self.calls.append(1)
        here.mkdir(exist_ok=True)
        unfinished = here / f"{self.rank}.tmp"
        unfinished.write_bytes(pickle.dumps(own))
        unfinished.rename(here / f"{self.rank}.value")
        paths = [here / f"{rank}.value" for rank in range(self.world_size)]
        while not all(path.exists() for path in paths):
            time.sleep(0.002)
        return [pickle.loads(path.read_bytes()) for path in paths]


def start_ranks(world_size: int, folder: Path, action: Callable[[Together], Any]) -> list[int]:
    """Fork `world_size` ranks that run `action`; each leaves its result in folder/result-RANK. Process ids."""
    folder.mkdir(parents=True)
    children = []
    for rank in range(world_size):
        child = os.fork()
        if child == 0:
            code = 1
            try:
                result = action(FileTogether(rank, world_size, folder=folder))
                (folder / f"result-{rank}").write_bytes(pickle.dumps(result))
                code = 0
            finally:
                os._exit(code)
        children.append(child)
    return children


def results_of(children: list[int], folder: Path) -> list[Any]:
    """Wait for the ranks and return what each returned."""
    for child in children:
        _, status = os.waitpid(child, 0)
        assert status == 0, f"a rank ended with status {status}"
    return [pickle.loads((folder / f"result-{rank}").read_bytes()) for rank in range(len(children))]


def kill_all(children: list[int]) -> None:
    for child in children:
        os.kill(child, signal.SIGKILL)
    for child in children:
        os.waitpid(child, 0)


def run_ranks(world_size: int, folder: Path, action: Callable[[Together], Any]) -> list[Any]:
    return results_of(start_ranks(world_size, folder, action), folder)

"""Saves of a run: at once, or copied to host memory and written by a thread while training goes on."""

import contextlib
import threading
import time
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch.distributed as dist

from megatron.checkpointing.retention import Retention, remove_old
from megatron.checkpointing.snapshot import HostCopies
from megatron.checkpointing.tensor_file import TensorFile
from megatron.checkpointing.together import Together
from megatron.checkpointing.writer import write_checkpoint
from megatron.errors import CheckpointError
from megatron.mpu.parallel_state import ParallelState


@dataclass(frozen=True)
class Saved:
    """A finished save. seconds: until it was whole; waited: for how long training stood still."""

    folder: Path
    iteration: int
    bytes: int
    seconds: float
    waited: float
    removed: tuple[Path, ...] = ()


class CheckpointSaver:
    """Writes checkpoints of a run under `save`, one at a time, and deletes those that `retention` gives up.

    Every rank makes one and calls it at the same steps. In the background the ranks agree through a group of their
    own (gloo), so that training's collectives are not disturbed.
    """

    def __init__(
        self,
        save: Path,
        parallel: ParallelState,
        retention: Retention,
        *,
        background: bool = False,
        timeout: timedelta = timedelta(minutes=30),
    ) -> None:
        self.save = save
        self._retention = retention
        self._background = background
        needs_group = background and parallel.world_size > 1
        self._together = Together.of(parallel, dist.new_group(backend="gloo", timeout=timeout) if needs_group else None)
        self._copies = HostCopies()
        self._thread: threading.Thread | None = None
        self._result: Saved | Exception | None = None

    def start(self, state: dict[str, Any], files: list[TensorFile]) -> None:
        """Save; in the background only the copy to host memory is waited for. An earlier save is finished first.

        Raises CheckpointError on every rank when this save, or in the background the one before, failed on any.
        """
        start = time.monotonic()
        self._join()
        if isinstance(self._result, Exception):
            raise self._result
        if not self._background:
            self._write(state, files, start, start)
            if isinstance(self._result, Exception):
                raise self._result
            return
        copies = self._copies.take(files)
        copied = time.monotonic()
        self._thread = threading.Thread(
            target=self._write, args=(state, copies, start, copied), daemon=True, name="checkpoint"
        )
        self._thread.start()

    def failed(self) -> bool:
        """True once the save in the background has failed; `finish` raises its error."""
        return isinstance(self._result, Exception)

    def news(self) -> Saved | None:
        """A save that has finished since the last call. Ranks may see it at different steps."""
        if isinstance(self._result, Saved) and (self._thread is None or not self._thread.is_alive()):
            saved, self._result = self._result, None
            return saved
        return None

    def finish(self) -> Saved | None:
        """Wait for the save under way; its result, unless `news` gave it. Raises CheckpointError when it failed."""
        self._join()
        if isinstance(self._result, Exception):
            raise self._result
        return self.news()

    def _join(self) -> None:
        if self._thread is not None:
            self._thread.join()
            self._thread = None

    def _write(self, state: dict[str, Any], files: list[TensorFile], start: float, copied: float) -> None:
        """Runs in the thread when in the background; the outcome is left in `_result`."""
        try:
            folder = write_checkpoint(self.save, state, files, self._together)
            size = sum(self._together.gather(sum(file.size() for file in files)))
            removed: list[Path] = []
            if self._together.rank == 0:
                with contextlib.suppress(OSError):  # what cannot be deleted now is old at the next save too
                    removed = remove_old(self.save, self._retention)
            end = time.monotonic()
            waited = (copied if self._background else end) - start
            self._result = Saved(folder, int(state["iteration"]), size, end - start, waited, tuple(removed))
        except CheckpointError as error:
            self._result = error
        except Exception as error:  # a lost peer, seen first by this thread
            self._result = error if self._background else None
            if not self._background:
                raise

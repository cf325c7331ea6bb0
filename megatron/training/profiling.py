"""A torch.profiler trace of a few steps, one file per rank, for Perfetto or chrome://tracing.

memory_profiling adds every allocation to the trace, and on GPUs a snapshot of the allocator's history
(https://docs.pytorch.org/memory_viz) in memory_profiling_path.
"""

from pathlib import Path
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

from megatron.errors import SettingsError
from megatron.training.run import Run

_HISTORY = 1_000_000  # allocator events kept for the snapshot


class StepProfiler:
    """Traces the steps profile_step_start to profile_step_stop, both included; off, it costs nothing."""

    def __init__(self, run: Run) -> None:
        args = run.args
        self._run = run
        self._trace: Any = None
        self._first = 0
        self._wanted = args.profile or args.memory_profiling
        self._folder = Path(args.log_dir or args.save or ".") / "profile"
        self._snapshots = Path(args.memory_profiling_path) if args.memory_profiling_path else self._folder
        if self._wanted:
            for folder in (self._folder, self._snapshots):
                _make(folder)

    def before_step(self, step: int) -> None:
        """Begin when the coming step is the first of those wanted that this run reaches."""
        args = self._run.args
        if not self._wanted or self._trace is not None or not args.profile_step_start <= step <= args.profile_step_stop:
            return
        self._first = step
        on_gpu = torch.cuda.is_available()
        if args.memory_profiling and on_gpu:
            torch.cuda.memory._record_memory_history(max_entries=_HISTORY)
        self._trace = profile(
            activities=[ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if on_gpu else [])],
            profile_memory=args.memory_profiling,
            record_shapes=True,
        )
        self._trace.start()

    def after_step(self, step: int) -> None:
        """Write the files after the last of them."""
        if self._trace is not None and step >= self._run.args.profile_step_stop:
            self._write(step)

    def close(self) -> None:
        """The run ends: what was traced so far is written."""
        if self._trace is not None:
            self._write(self._run.state.iteration)

    def _write(self, last: int) -> None:
        run, trace = self._run, self._trace
        self._trace, self._wanted = None, False
        trace.stop()
        name = f"steps-{self._first}-{last}-rank-{run.parallel.rank:05d}"
        trace.export_chrome_trace(str(self._folder / f"{name}.json.gz"))
        if run.args.memory_profiling and torch.cuda.is_available():
            torch.cuda.memory._dump_snapshot(str(self._snapshots / f"{name}.pickle"))
            torch.cuda.memory._record_memory_history(enabled=None)
        run.reporter.say(
            f"Traced steps {self._first} to {last} into {self._folder}, one file per rank, for ui.perfetto.dev"
        )
        run.reporter.event("profile", iteration=last, first=self._first, last=last, folder=str(self._folder))


def _make(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise SettingsError(f"profile: cannot write {folder}: {error.strerror}. Set another log_dir.") from None

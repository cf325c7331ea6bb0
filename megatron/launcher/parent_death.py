"""Ranks must not outlive their launcher, not even one killed by SIGKILL, which no handler sees.

On Linux the kernel ends each rank (PR_SET_PDEATHSIG). A small guard process ends the whole groups, so that helper
processes of a rank go too, and does the job alone where the kernel offers nothing.
"""

import contextlib
import ctypes
import os
import signal
import sys
from collections.abc import Callable, Iterable

_PR_SET_PDEATHSIG = 1
_NOT_FOR_THE_GUARD = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1)


def die_with_parent(parent: int) -> Callable[[], None]:
    """A function for the child to call between fork and exec; it asks the kernel to end the child with its parent.

    parent: the process id that the child's parent has now.
    """
    prctl = _prctl()

    def in_child() -> None:
        if prctl is not None:
            prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if os.getppid() != parent:  # it died before the call above
            os._exit(1)

    return in_child


class Guard:
    """Ends the given process groups when this process dies without having called dismiss()."""

    def __init__(self, groups: Iterable[int]) -> None:
        read_end, self._write_end = os.pipe()
        # The guard keeps these blocked for good: whatever stops the launcher must not stop its guard.
        unblocked = signal.pthread_sigmask(signal.SIG_BLOCK, _NOT_FOR_THE_GUARD)
        self._child = os.fork()
        if self._child == 0:
            os.close(self._write_end)
            _watch(read_end, list(groups))
        signal.pthread_sigmask(signal.SIG_SETMASK, unblocked)
        os.close(read_end)

    def dismiss(self) -> None:
        """All ranks are gone: the guard leaves without touching a thing."""
        with contextlib.suppress(OSError):
            os.write(self._write_end, b"done")
        os.close(self._write_end)
        with contextlib.suppress(ChildProcessError):
            os.waitpid(self._child, 0)


def _watch(read_end: int, groups: list[int]) -> None:
    """Runs in the guard; never returns."""
    try:
        os.setsid()
        nothing = os.open(os.devnull, os.O_RDWR)
        for stream in (0, 1, 2):  # a pipe behind our output must see its end when the ranks are gone
            os.dup2(nothing, stream)
        if os.read(read_end, 4) == b"":
            for group in groups:
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.killpg(group, signal.SIGKILL)
    finally:
        os._exit(0)


def _prctl() -> Callable[..., int] | None:
    """libc's prctl, looked up before the fork: loading a library between fork and exec is not safe."""
    if not sys.platform.startswith("linux"):
        return None
    try:
        prctl = ctypes.CDLL(None, use_errno=True).prctl
    except (OSError, AttributeError):
        return None
    prctl.argtypes = [ctypes.c_int, ctypes.c_ulong, ctypes.c_ulong, ctypes.c_ulong, ctypes.c_ulong]
    return prctl

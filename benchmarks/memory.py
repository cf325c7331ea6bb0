"""Peak memory of a function, as the operating system sees it: what it adds to the process, at its worst moment."""

import resource
import sys
from collections.abc import Callable
from pathlib import Path

_STATUS = Path("/proc/self/status")
_CLEAR = Path("/proc/self/clear_refs")


def added_at_peak(function: Callable[[], object]) -> float:
    """MiB of resident memory at the peak of `function`, beyond what was resident before it.

    Meant for a fresh process that runs nothing else. Where the system cannot reset its peak counter (anything but
    Linux), memory used for a moment before the call hides an equal amount of the function's own.
    """
    try:
        _CLEAR.write_text("5")
    except OSError:
        before = _peak_ever()
        function()
        return _peak_ever() - before
    before = _status("VmRSS")
    function()
    return _status("VmHWM") - before


class Peak:
    """MiB that this process adds at its worst moment, from the making of the object on; on a GPU, of its memory.

    The first moment of a process that does nothing else, for the reason given above.
    """

    def __init__(self, device: str = "cpu") -> None:
        self._gpu, self._before = device.startswith("cuda"), 0.0
        if self._gpu:
            return
        try:
            _CLEAR.write_text("5")
            self._before = _status("VmRSS")
        except OSError:
            self._before = _peak_ever()

    def added(self) -> float:
        """Up to now."""
        if self._gpu:
            import torch

            return torch.cuda.max_memory_allocated() / 2**20
        return (_status("VmHWM") if _STATUS.exists() else _peak_ever()) - self._before


def _status(name: str) -> float:
    line = next(line for line in _STATUS.read_text(encoding="utf-8").splitlines() if line.startswith(name + ":"))
    return int(line.split()[1]) / 1024


def _peak_ever() -> float:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 2**20 if sys.platform == "darwin" else peak / 2**10

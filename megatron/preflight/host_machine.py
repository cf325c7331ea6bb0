"""On a host: what the machine is and offers. Torch is not imported, which would take seconds."""

import contextlib
import os
import resource
import subprocess
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from megatron.launcher.accelerators import usable_cores, visible_accelerators
from megatron.launcher.fingerprint import take_fingerprint

_TRIES = 5
_SHARED_MEMORY = Path("/dev/shm")


def machine() -> dict[str, Any]:
    """What it runs, its devices, cores, memory (bytes) and limits, and the speed of a small product (FLOP/s)."""
    accelerators = visible_accelerators()
    return {
        "fingerprint": asdict(take_fingerprint()),
        "accelerators": accelerators,
        "devices": _nvidia() if accelerators else [],
        "cores": usable_cores(),
        "memory": _available_memory(),
        "shared_memory": _free(_SHARED_MEMORY),
        "open_files": _limit(resource.RLIMIT_NOFILE),
        "locked_memory": _limit(resource.RLIMIT_MEMLOCK),
        "infiniband": any(Path("/sys/class/infiniband").glob("*")),
        "speed": None if accelerators else _speed(),
    }


def _nvidia() -> list[dict[str, Any]]:
    """Name, driver and memory (bytes) of each device that nvidia-smi lists; empty without it."""
    command = [
        "nvidia-smi",
        "--query-gpu=name,driver_version,memory.total,memory.free",
        "--format=csv,noheader,nounits",
    ]
    try:
        listed = subprocess.run(command, capture_output=True, text=True, timeout=8)
    except (OSError, subprocess.SubprocessError):
        return []
    found = []
    for line in listed.stdout.splitlines():
        with contextlib.suppress(ValueError):
            name, driver, total, free = (word.strip() for word in line.split(","))
            found.append({"name": name, "driver": driver, "memory": int(total) << 20, "free": int(free) << 20})
    return found


def _available_memory() -> int | None:
    """Bytes that processes may still take; a container's own limit counts."""
    found = []
    with contextlib.suppress(OSError, ValueError, IndexError):
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        found += [int(line.split()[1]) << 10 for line in lines if line.startswith("MemAvailable:")]
    with contextlib.suppress(OSError, ValueError):  # "max" where there is no limit
        limit = int(Path("/sys/fs/cgroup/memory.max").read_text())
        found.append(limit - int(Path("/sys/fs/cgroup/memory.current").read_text()))
    return min(found, default=None)


def _free(folder: Path) -> int | None:
    try:
        figures = os.statvfs(folder)
    except OSError:
        return None
    return figures.f_bavail * figures.f_frsize


def _limit(kind: int) -> int | None:
    """None: no limit."""
    soft = resource.getrlimit(kind)[0]
    return None if soft == resource.RLIM_INFINITY else soft


def _speed() -> float:
    import numpy

    size = 512
    values = numpy.ones((size, size), numpy.float32)
    seconds = []
    for _ in range(_TRIES):
        start = time.perf_counter()
        values @ values
        seconds.append(time.perf_counter() - start)
    return 2 * size**3 / min(seconds)

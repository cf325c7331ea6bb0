"""How many accelerators and cores this host offers, found without importing torch (which takes seconds)."""

import os
import re
from pathlib import Path


def visible_accelerators() -> list[str]:
    """Their ids as CUDA_VISIBLE_DEVICES would name them; empty on a machine without, or with DS_ACCELERATOR=cpu."""
    if os.environ.get("DS_ACCELERATOR") == "cpu":
        return []
    present = _nvidia_devices() or _amd_devices()
    for variable in ("CUDA_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES"):
        if present and variable in os.environ:
            return _listed(os.environ[variable])
    return present


def usable_cores() -> int:
    """CPU cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return max(1, len(os.sched_getaffinity(0)))
    return os.cpu_count() or 1


def _listed(value: str) -> list[str]:
    """CUDA's own rule: the list ends at the first entry that names no device."""
    devices: list[str] = []
    for entry in value.split(","):
        entry = entry.strip()
        if not entry or entry.startswith("-"):
            break
        devices.append(entry)
    return devices


def _nvidia_devices(folder: Path = Path("/dev")) -> list[str]:
    numbers = [match[1] for path in folder.glob("nvidia*") if (match := re.fullmatch(r"nvidia(\d+)", path.name))]
    return [str(index) for index in range(len(numbers))]


def _amd_devices(folder: Path = Path("/sys/class/kfd/kfd/topology/nodes")) -> list[str]:
    """A node of the ROCm driver is a GPU when it has vector units."""
    count = 0
    for properties in folder.glob("*/properties"):
        try:
            text = properties.read_text(encoding="ascii")
        except OSError:
            continue
        count += bool(re.search(r"^simd_count [1-9]", text, re.MULTILINE))
    return [str(index) for index in range(count)]

"""Where a number was measured: machine, versions, commit, date, command line. Part of every result file."""

import datetime
import importlib.metadata
import os
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch

_REPOSITORY = Path(__file__).resolve().parents[1]


def describe_environment() -> dict[str, Any]:
    """JSON-able facts. Paths of this machine are left out; `commit` ends in "-dirty" for changed sources."""
    found: dict[str, Any] = {
        "cpu": _cpu_model(),
        "cores": os.cpu_count(),
        "load_average": round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None,
        "threads": torch.get_num_threads(),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "torch": torch.__version__,
        "triton": _version("triton"),
        "commit": _commit(),
        "date": datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%d %H:%M UTC"),
        "argv": [Path(sys.argv[0]).name, *sys.argv[1:]],
    }
    if torch.cuda.is_available():
        device = torch.cuda.get_device_properties(0)
        found["gpu"] = device.name
        found["gpu_memory_gib"] = round(device.total_memory / 2**30, 1)
        found["cuda"] = torch.version.cuda
        found["driver"] = _output(["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"])
    return found


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    facts = dict(line.split(":", 1) for line in reversed(lines) if ":" in line)
    facts = {name.strip(): value.strip() for name, value in facts.items()}
    name = facts.get("model name", platform.machine())
    return f"{name} (family {facts['cpu family']}, model {facts['model']})" if "cpu family" in facts else name


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _commit() -> str | None:
    commit = _output(["git", "-C", str(_REPOSITORY), "rev-parse", "--short=12", "HEAD"])
    sources = ["sepllm", "megatron", "benchmarks/*.py"]
    changed = _output(["git", "-C", str(_REPOSITORY), "status", "--porcelain", "--", *sources])
    return f"{commit}-dirty" if commit and changed else commit


def _output(command: list[str]) -> str | None:
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=30).stdout.strip() or None
    except (OSError, subprocess.SubprocessError):
        return None

"""Timing whole commands, each a process of its own: wall and CPU seconds, peak memory, all repeats in turn."""

import hashlib
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

ROOT = Path(__file__).resolve().parents[1]


@dataclass
class Runs:
    """Of one command, every repeat. peak_mib: resident memory of its largest process."""

    seconds: list[float] = field(default_factory=list)
    cpu_seconds: list[float] = field(default_factory=list)
    peak_mib: list[float] = field(default_factory=list)
    outputs: list[str] = field(default_factory=list)

    def summary(self) -> dict[str, Any]:
        return {
            "seconds": round(median(self.seconds), 3),
            "spread": [round(min(self.seconds), 3), round(max(self.seconds), 3)],
            "cpu_seconds": round(median(self.cpu_seconds), 3),
            "peak_mib": round(median(self.peak_mib), 1),
            "repeats": len(self.seconds),
        }


def measure(
    commands: Mapping[str, Sequence[str]],
    repeats: int,
    *,
    environment: Mapping[str, str] | None = None,
    before: Callable[[str], None] = lambda name: None,
    after: Callable[[str], None] = lambda name: None,
) -> dict[str, Runs]:
    """All commands in turn, `repeats` times; `before` and `after` each are not timed. SystemExit when one fails."""
    runs = {name: Runs() for name in commands}
    for _ in range(repeats):
        for name, command in commands.items():
            before(name)
            _once(name, command, runs[name], environment)
            after(name)
    return runs


def _once(name: str, command: Sequence[str], runs: Runs, environment: Mapping[str, str] | None) -> None:
    start = time.perf_counter()
    process = subprocess.Popen(
        command, cwd=ROOT, env={**os.environ, **(environment or {})}, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    output = process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    runs.seconds.append(time.perf_counter() - start)
    if process.returncode:
        raise SystemExit(f"{name} ended with exit code {process.returncode}: {' '.join(map(str, command))}")
    runs.cpu_seconds.append(usage.ru_utime + usage.ru_stime)
    runs.peak_mib.append(usage.ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10))
    runs.outputs.append(output)


def sha256_of(path: Path) -> str:
    """Of a file's content, read in pieces."""
    found = hashlib.sha256()
    with path.open("rb") as file:
        while data := file.read(1 << 24):
            found.update(data)
    return found.hexdigest()

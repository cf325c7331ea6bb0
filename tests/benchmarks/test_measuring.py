"""Timing, memory and environment: what the instruments say about things whose cost is known."""

import json
import subprocess
import sys
import time
from pathlib import Path

from benchmarks.environment import describe_environment
from benchmarks.timing import interleaved


def test_cases_take_turns() -> None:
    order: list[str] = []
    times = interleaved({"a": lambda: order.append("a"), "b": lambda: order.append("b")}, 0.0, least=3)
    assert order == ["a", "b"] * 4  # once to warm up
    assert times["a"].summary()["repeats"] == 3


def test_sleeping_costs_wall_time_but_no_cpu_time() -> None:
    summary = interleaved({"": lambda: time.sleep(0.02)}, 0.0)[""].summary()
    assert summary["wall_ms"] >= 20 > 10 > summary["cpu_ms"]


def test_peak_memory_of_a_known_size(repository: Path) -> None:
    script = (
        "from benchmarks.memory import added_at_peak\n"
        "def use():\n"
        "    bytearray(b'x') * (200 * 2**20)\n"
        "    bytearray(b'x') * (50 * 2**20)\n"
        "print(added_at_peak(use))\n"
    )
    command = [sys.executable, "-c", script]
    found = float(subprocess.run(command, check=True, capture_output=True, text=True, cwd=repository).stdout)
    assert 199 < found < 210


def test_the_environment_is_json_without_paths() -> None:
    facts = describe_environment()
    assert "/" not in json.dumps({**facts, "argv": facts["argv"][:1]})
    assert facts["torch"] and facts["cpu"] and facts["date"].endswith("UTC")

"""Run a tool of tools/datasets as a user does: a process of its own, no installation."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]


def run_tool(name: str, *flags: object, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    """`python tools/datasets/<name> <flags>`, from the folder `cwd`."""
    return subprocess.run(
        [sys.executable, str(ROOT / "tools" / "datasets" / name), *map(str, flags)],
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=60,
    )


def refused(result: subprocess.CompletedProcess[str], code: int, *words: object) -> None:
    """The tool ended with `code` and a message that has all of `words`, without a traceback."""
    assert result.returncode == code, result.stdout + result.stderr
    assert "Traceback" not in result.stderr
    for word in words:
        assert str(word) in result.stderr, (word, result.stderr)

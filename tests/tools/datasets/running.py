"""Run a tool of tools/datasets as a user does: a process of its own, no installation."""

import importlib
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]


def run_tool(tool: str, *flags: object, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    """`python <tool> <flags>` from the folder `cwd`; tool: path in the repository."""
    return subprocess.run(
        [sys.executable, str(ROOT / tool), *map(str, flags)],
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=600,
    )


def call_tool(tool: str, *flags: object) -> None:
    """The same in this process, for what imports libraries that take seconds. Raises the errors of the tool."""
    module = importlib.import_module(tool.removesuffix(".py").replace("/", "."))
    argv = sys.argv
    sys.argv = [tool, *map(str, flags)]
    try:
        module.main()
    finally:
        sys.argv = argv


def refused(result: subprocess.CompletedProcess[str], code: int, *words: object) -> None:
    """The tool ended with `code` and a message that has all of `words`, without a traceback."""
    assert result.returncode == code, result.stdout + result.stderr
    assert "Traceback" not in result.stderr
    for word in words:
        assert str(word) in result.stderr, (word, result.stderr)

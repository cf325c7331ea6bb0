"""The Makefile's targets, without installing anything: what each would run, and that CI runs the README's command."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[1]

# `make venv` alone is not listed: a fresh virtual environment takes minutes; CI makes one before it comes here.
PARTS = {
    "make quickstart": ["-m training_examples.quickstart"],
    "make test": [
        "ruff check .",
        "ruff format --check .",
        "-m mypy",
        "-m pytest",
        '--dist loadgroup -m "not exhaustive" tests',
    ],
    "make test-all": ["ruff check .", "-m pytest", "--dist loadgroup --hypothesis-profile search tests"],
    "make test-fast": ['-m "not slow and not multiprocess and not gpu"'],
    "make lint": ["ruff check .", "ruff format --check .", "-m mypy"],
    "make format": ["ruff check --fix .", "ruff format ."],
    "make clean": ["rm -rf quickstart"],
}

pytestmark = pytest.mark.skipif(shutil.which("make") is None, reason="needs make")


def make(*words: str) -> subprocess.CompletedProcess[str]:
    # These tests may run inside `make test`, whose own flags must not reach this one.
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("MAKE", "MFLAGS"))}
    return subprocess.run(["make", *words], cwd=REPOSITORY, env=environment, capture_output=True, text=True)


def dry_run(*words: str) -> str:
    done = make("-n", *words)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("command", PARTS)
def test_a_target_runs_what_its_name_says(command: str) -> None:
    shown = dry_run(command.split()[1])
    assert [part for part in PARTS[command] if part not in shown] == []


def test_make_venv_installs_every_extra_and_stamps_it(tmp_path: Path) -> None:
    shown = dry_run("venv", f"VENV={tmp_path / 'venv'}")
    assert "pip install torch==2.13.0" in shown and "-e '.[train,eval,dev]'" in shown
    (tmp_path / "venv").mkdir()
    (tmp_path / "venv" / ".installed").touch()
    assert "pip install" not in dry_run("venv", f"VENV={tmp_path / 'venv'}"), (
        "a stamp newer than requirements is enough"
    )


def test_a_missing_python_is_named(tmp_path: Path) -> None:
    done = make("venv", f"VENV={tmp_path / 'venv'}", "PYTHON=")
    assert done.returncode == 2 and "No Python >= 3.10 found" in done.stdout


def test_help_lists_the_commands() -> None:
    shown = make("help").stdout
    assert [command for command in [*PARTS, "make venv"] if command not in shown] == []


def test_ci_runs_the_command_of_the_readme() -> None:
    script = REPOSITORY / ".ci" / "run"
    assert script.read_text().splitlines()[-1] == "exec make test"
    assert script.stat().st_mode & 0o111, ".ci/run must be executable"

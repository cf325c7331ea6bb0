"""A tiny run, and the command on it: on this host, or on hosts behind a fake `ssh` that differ where a test says so."""

import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from megatron.launcher.ports import free_port
from megatron.preflight.command import main
from tests.helpers.hosts import fake_programs, twists
from tests.helpers.tiny_run import tiny_settings, write_settings, write_tiny_data


@dataclass
class Outcome:
    """code: what the command returned; checks: name -> its entry in the JSON file; text: what it printed."""

    code: int
    checks: dict[str, dict[str, Any]]
    text: str

    def states(self) -> dict[str, str]:
        return {name: check["state"] for name, check in self.checks.items()}

    def bad(self) -> list[str]:
        return [name for name, check in self.checks.items() if check["state"] in ("fail", "warn")]


def read_outcome(file: Path, text: str) -> Outcome:
    """From the JSON file and what was printed."""
    found = json.loads(file.read_text(encoding="utf-8"))
    return Outcome(found["exit_code"], {check["name"]: check for check in found["checks"]}, text)


Preflight = Callable[..., Outcome]
Twist = Callable[[str, str], None]


@pytest.fixture
def run_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with data and the settings of a tiny run in it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DS_ACCELERATOR", "cpu")
    monkeypatch.delenv("DLTS_HOSTFILE", raising=False)
    data = write_tiny_data(Path("data"))
    write_settings(Path("tiny.yml"), tiny_settings(data, save="run", checkpoint_factor=5, keep_last_n_checkpoints=2))
    return tmp_path


@pytest.fixture
def preflight(run_folder: Path, capsys: pytest.CaptureFixture[str]) -> Preflight:
    """Run the command on tiny.yml with further words; without ranks unless they say otherwise."""

    def run(*words: str, ranks: bool = False) -> Outcome:
        code = main(["tiny.yml", *words, "--json", "found.json", *([] if ranks else ["--no-ranks"])])
        outcome = read_outcome(Path("found.json"), capsys.readouterr().out)
        assert outcome.code == code
        return outcome

    return run


@pytest.fixture
def twist(run_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Twist:
    """Puts code at the start of every Python process on a host; host "here" is this one without ssh."""
    folder = twists(run_folder)

    def put(host: str, code: str) -> None:
        (folder / host).write_text(code)
        if host == "here":
            monkeypatch.setenv("PYTHONPATH", f"{folder}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")
            monkeypatch.setenv("FAKE_HOST", host)

    return put


@pytest.fixture
def cluster(run_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two hosts of one slot, node-a and node-b, in the hostfile `hosts`; the current folder."""
    monkeypatch.setenv("PATH", fake_programs(run_folder))
    (run_folder / "hosts").write_text("node-a slots=1\nnode-b slots=1\n")
    with (run_folder / "tiny.yml").open("a") as file:
        file.write(f"master_port: {free_port()}\n")  # other tests use the usual one
    return run_folder

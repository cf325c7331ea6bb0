"""A cluster without a network: `ssh` and `pdsh` first on PATH run real probes and ranks here, twisted by host."""

import json
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from megatron.preflight.command import main
from tests.helpers.tiny_run import tiny_settings, write_settings, write_tiny_data

FAKE_SSH = """#!{python}
import os, subprocess, sys
words = sys.argv[1:]
while words[0] == "-o":
    del words[:2]
host, command = words[0], " ".join(words[1:])
if host == "refuses":
    sys.exit("Permission denied (publickey).")
if command == "hostname -I":
    sys.exit(print("127.0.0.1"))
for other in open("{folder}/roots").read().splitlines():
    name, old, new = other.split()
    command = command.replace(old, new) if name == host else command
bare = dict(PATH=os.defpath, HOME=os.environ["HOME"], PYTHONPATH="{folder}/twists", TWIST="{folder}/twists/" + host)
sys.exit(subprocess.run(["sh", "-c", command], env=bare).returncode)
"""

FAKE_PDSH = """#!{python}
import os, subprocess, sys
words = sys.argv[1:]
hosts = words[words.index("-w") + 1].split(",")
command = " ".join(words[words.index("-w") + 2 :])
bare = {{"PATH": os.defpath, "HOME": os.environ["HOME"]}}
started = [
    subprocess.Popen(["sh", "-c", command.replace("%n", str(n)).replace("%h", host)], env=bare)
    for n, host in enumerate(hosts)
]
sys.exit(max(process.wait() % 256 for process in started))
"""

TWISTED = """
import os
path = os.environ.get("TWIST", "")
if os.path.exists(path):
    exec(open(path).read())
"""


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
def twist(run_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str], None]:
    """Code that runs at the start of every Python process on a host; host "" is this one without ssh."""
    folder = run_folder / "twists"
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(TWISTED)

    def put(host: str, code: str) -> None:
        (folder / (host or "here")).write_text(code)
        if not host:
            monkeypatch.setenv("PYTHONPATH", f"{folder}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")
            monkeypatch.setenv("TWIST", str(folder / "here"))

    return put


@pytest.fixture
def cluster(
    run_folder: Path, twist: Callable[[str, str], None], monkeypatch: pytest.MonkeyPatch
) -> Callable[[str, str], None]:
    """Two hosts of one slot, node-a and node-b, in the hostfile `hosts`; returns `twist`."""
    programs = run_folder / "bin"
    programs.mkdir()
    for name, text in (("ssh", FAKE_SSH), ("pdsh", FAKE_PDSH)):
        (programs / name).write_text(text.format(python=sys.executable, folder=run_folder))
        (programs / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}{os.pathsep}{os.environ['PATH']}")
    (run_folder / "roots").write_text("")
    (run_folder / "hosts").write_text("node-a slots=1\nnode-b slots=1\n")
    return twist

"""The command on two hosts behind a fake ssh: real probes and ranks; one host is not like the other, and is named."""

import shutil
import time
from pathlib import Path

import pytest

from megatron.preflight import check_files
from tests.megatron.preflight.conftest import Outcome, Preflight, Twist

pytestmark = pytest.mark.multiprocess
HOSTS = ("-H", "hosts")


@pytest.mark.slow
def test_everything_passes(preflight: Preflight, cluster: Path) -> None:
    found = preflight(*HOSTS, "--set", "pipe_parallel_size=2", "--limit", "300", ranks=True)
    assert found.code == 0, found.text
    assert "2 answer over ssh" in found.checks["hosts"]["found"]
    assert " on node-a is reached from 1 host" in found.checks["network"]["found"]
    assert "alike on 2 hosts" in found.checks["data"]["found"]
    assert found.checks["shared"]["found"] == "save run: one folder\ndata data: one folder"
    assert "2 ranks" in found.checks["collective"]["found"]
    assert "whole batch of 4" in found.checks["step"]["found"]
    assert not (cluster / "run").exists() and not list(cluster.rglob(".preflight-*"))


def _only(found: Outcome, name: str, *words: str) -> None:
    """This check alone is not right, and names node-b and what it found."""
    assert found.bad() == [name], found.text
    for word in ("node-b", *words):
        assert word in found.checks[name]["found"], found.text
    assert found.checks[name]["advice"]


def test_a_host_that_refuses(preflight: Preflight, cluster: Path) -> None:
    (cluster / "refuses-node-b").touch()
    found = preflight(*HOSTS)
    assert found.code == 2
    _only(found, "hosts", "Permission denied")
    assert found.checks["data"]["found"].endswith("(not asked: node-b)"), "the other host is looked at all the same"


def test_another_clock(preflight: Preflight, cluster: Path, twist: Twist) -> None:
    twist("node-b", "import time; real = time.time; time.time = lambda: real() + 7200")
    found = preflight(*HOSTS)
    assert found.code == 0
    _only(found, "clocks", "+7200.")


def test_other_versions(preflight: Preflight, cluster: Path, twist: Twist) -> None:
    other = "import importlib.metadata as m; real = m.version\n"
    twist("node-b", other + "m.version = lambda name: '2.9.1' if name == 'torch' else real(name)")
    found = preflight(*HOSTS)
    assert found.code == 2
    _only(found, "versions", "torch 2.9.1")
    found = preflight(*HOSTS, "-o", "allow_different_versions=true")
    assert found.code == 0 and found.states()["versions"] == "warn"


def test_other_code(preflight: Preflight, cluster: Path, twist: Twist) -> None:
    twist(
        "node-b",
        "import pathlib; real = pathlib.Path.read_bytes\n"
        "pathlib.Path.read_bytes = lambda path: real(path) + b'#' * (path.name == 'gpt_model.py')",
    )
    found = preflight(*HOSTS)
    assert found.code == 2
    _only(found, "code", "megatron/model/gpt_model.py differs")


def test_data_that_differ_or_are_cut(preflight: Preflight, cluster: Path, twist: Twist) -> None:
    """node-b has a copy of its own."""
    twist("node-b", "import os; real = os.chdir; os.chdir = lambda path: real(path + '/own')")
    shutil.copytree("data", "own/data")
    assert preflight(*HOSTS).code == 0
    tokens = Path("own/data/tiny_text_document.bin")
    content = tokens.read_bytes()
    tokens.write_bytes(content[:-2] + b"??")
    found = preflight(*HOSTS)
    assert found.code == 3
    _only(found, "data", "data/tiny_text_document.bin", "unlike on node-a")
    tokens.write_bytes(content[:-2])
    found = preflight(*HOSTS)
    assert found.code == 3
    _only(found, "data", "data/tiny_text_document.bin", f"found {len(content) - 2} bytes")


def test_folders_that_are_not_shared(
    preflight: Preflight, cluster: Path, twist: Twist, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(check_files, "_PATIENCE", 0.3)
    hidden = "import os; real = os.listdir\n"
    hidden += "os.listdir = lambda path: [name for name in real(path) if '.preflight' not in name]"
    twist("node-b", hidden)
    found = preflight(*HOSTS)
    assert found.code == 4
    _only(found, "shared", "save run", "data data", "cannot see what node-a writes")
    found = preflight(*HOSTS, "-o", "save=null", "-o", "checkpoint_factor=null", "-o", "keep_last_n_checkpoints=null")
    assert found.code == 0 and found.states()["shared"] == "warn", "copies of the data are enough"


def test_no_way_to_the_first_host(preflight: Preflight, cluster: Path, twist: Twist) -> None:
    blocked = "import socket\ndef blocked(*_, **__):\n    raise TimeoutError('timed out')\n"
    twist("node-b", blocked + "socket.create_connection = blocked")
    found = preflight(*HOSTS)
    assert found.code == 2
    _only(found, "network", "node-a", "timed out")


@pytest.mark.slow
def test_a_host_that_hangs(preflight: Preflight, cluster: Path, twist: Twist) -> None:
    pid = cluster / "pid"
    hang = f"import os, time\ndef hang(*_):\n    open('{pid}', 'w').write(str(os.getpid()))\n    time.sleep(600)\n"
    twist("node-b", hang + "os.access = hang")
    found = preflight(*HOSTS, "-o", "auto_resume=true", ranks=True)
    assert found.code == 6
    _only(found, "save", "no answer within 5 s")
    assert found.states()["data"] == "pass" and found.states()["checkpoint"] == "pass"
    assert found.checks["collective"]["found"] == found.checks["step"]["found"] == "first mend save"
    process = Path("/proc", pid.read_text())
    deadline = time.monotonic() + 300
    while process.exists():
        assert time.monotonic() < deadline, "the probe that hung is still there"
        time.sleep(0.05)


def test_no_ssh(preflight: Preflight, cluster: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    found = preflight(*HOSTS)
    assert found.code == 2 and "'ssh', which is not on PATH" in found.checks["settings"]["found"]


def test_too_few_accelerators(
    preflight: Preflight, cluster: Path, twist: Twist, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A host with one device whose hostfile says two slots; the other has two."""
    monkeypatch.delenv("DS_ACCELERATOR")
    for host, devices in (("node-a", 2), ("node-b", 1)):
        twist(
            host,
            "import pathlib; real = pathlib.Path.glob\n"
            f"devices = [pathlib.Path(f'/dev/nvidia{{n}}') for n in range({devices})]\n"
            "pathlib.Path.glob = lambda path, what: devices if what == 'nvidia*' else real(path, what)",
        )
    (cluster / "hosts").write_text("node-a slots=2\nnode-b slots=2\n")
    found = preflight(*HOSTS)
    assert found.code == 2
    _only(found, "slots", "slots up to 1, but 1 accelerators")

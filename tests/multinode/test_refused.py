"""What is wrong between hosts is said before step 1, by the host's name, with exit code 2."""

import importlib.util
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from tests.helpers.tiny_run import tiny_settings
from tests.multinode.hosts import Hosts
from tests.multinode.run import ROOT, deepy_on

CODE = ROOT / "megatron" / "training" / "loop.py"

pytestmark = [pytest.mark.slow, pytest.mark.multiprocess, pytest.mark.xdist_group("multinode")]


@pytest.fixture
def unlike(tmp_path: Path) -> Iterator[Hosts]:
    """Three hosts: node2 has one other line of ours, node3 another torch."""
    code, version = tmp_path / "loop.py", tmp_path / "version.py"
    code.write_text(CODE.read_text() + "# an older line\n")
    spec = importlib.util.find_spec("torch")
    assert spec and spec.origin
    own = Path(spec.origin).with_name("version.py")
    version.write_text(own.read_text().replace(torch.__version__, "2.99.0"))
    with Hosts(3, tmp_path / "hosts", {"node2": {CODE: code}, "node3": {own: version}}) as hosts:
        yield hosts


def test_other_code_and_another_torch(unlike: Hosts, data: Path, tmp_path: Path) -> None:
    save = tmp_path / "run"
    settings = tiny_settings(
        data, hostfile=str(unlike.hostfile([1, 1, 1])), train_batch_size=3, save=str(save), checkpoint_factor=10
    )
    done = deepy_on(unlike, tmp_path / "out", settings)
    assert done.returncode == 2, done.stdout
    assert "node2: megatron/training/loop.py differs" in done.stdout
    assert f"node3: torch 2.99.0; {torch.__version__} on node1" in done.stdout
    assert "allow_different_versions: true" in done.stdout
    assert not (save / "events.jsonl").exists() and not list(save.glob("global_step*"))


def test_hosts_that_cannot_be_reached(data: Path, tmp_path: Path) -> None:
    """Each by name, with what ssh says; and all in one go."""
    with Hosts(3, tmp_path / "hosts") as hosts:
        hosts["node2"].stop_sshd()
        (hosts["node3"].folder / "authorized_keys").write_text("")
        hostfile = hosts.hostfile([1, 1, 1])
        with hostfile.open("a") as file:
            file.write("nowhere slots=1\n")
        done = deepy_on(hosts, tmp_path / "ssh", tiny_settings(data, hostfile=str(hostfile)))
        assert done.returncode == 2, done.stdout
        for words in ("node2: ssh: connect to host node2 port 22: Connection refused", "Permission denied", "nowhere"):
            assert words in done.stdout
        assert "  node1:" not in done.stdout and "ssh-copy-id" in done.stdout

        for line, words in {
            "node2 slots=zwei": "hostfile-bad:2",
            "node2; touch /run/x slots=1": "hostfile-bad:2",
            "node1 slots=1": "node1",
        }.items():
            bad = hosts.folder / "hostfile-bad"
            bad.write_text(f"node1 slots=1\n{line}\n")
            done = deepy_on(hosts, tmp_path / "bad", tiny_settings(data, hostfile=str(bad)))
            assert done.returncode == 2 and words in done.stdout, done.stdout
            shutil.rmtree(tmp_path / "bad")

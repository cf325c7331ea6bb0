"""The hosts by hand, and after their owner was killed: the machine is as it was before."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.multinode.hosts import remove_leftovers
from tests.multinode.run import ROOT, wait_for

pytestmark = [pytest.mark.multiprocess, pytest.mark.xdist_group("multinode")]


def test_by_hand_and_after_a_crash() -> None:
    before = machine()
    words = [sys.executable, "-m", "tests.multinode.hosts", "2"]
    with subprocess.Popen(words, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        enter = [process.stdout.readline().partition(": ")[2].split() for _ in range(2)]
        assert process.stdout.readline().startswith("hostfile with two slots each: ")
        greeting = [*enter[0][:-1], "pdsh", "-R", "ssh", "-S", "-w", "node1,node2", "hostname"]
        said = subprocess.run(greeting, capture_output=True, text=True, timeout=60)
        assert sorted(said.stdout.split("\n")) == ["", "node1: node1", "node2: node2"], said.stderr
        assert f"slns{process.pid}a" in name_spaces()
        process.send_signal(signal.SIGKILL)
        process.wait()
    inner = Path("/proc", enter[1][2])
    wait_for(lambda: not inner.exists(), "the kernel to end the hosts")
    remove_leftovers()
    assert f"slns{process.pid}a" not in name_spaces()
    assert machine() == before


def machine() -> str:
    """Interfaces, and the files that hosts have of their own."""
    links = subprocess.run(["ip", "-brief", "link"], capture_output=True, text=True).stdout
    return links + Path("/etc/hosts").read_text() + Path("/etc/ssh/ssh_config").read_text()


def name_spaces() -> str:
    return subprocess.run(["ip", "netns", "list"], capture_output=True, text=True).stdout

"""The one place that makes a remote command, and what is said when pdsh does not do its part."""

import os
import shlex
import sys
from pathlib import Path

import pytest

from megatron.errors import SettingsError
from megatron.launcher import connections
from megatron.launcher.connections import Connections, ssh_command


def test_the_remote_command_survives_any_path_and_the_users_options_come_first(monkeypatch: pytest.MonkeyPatch) -> None:
    folder = Path("/a 'b' $(c)")
    monkeypatch.setattr(connections, "repository_root", lambda: folder)
    *options, host, remote = ssh_command("node1", {"PDSH_SSH_ARGS_APPEND": "-p 2222 -i 'my key'"})
    assert options[1:5] == ["-p", "2222", "-i", "my key"] and host == "node1"
    assert {"BatchMode=yes", "ServerAliveInterval=5", "RequestTTY=no", "ControlPath=none"} <= set(options)
    assert shlex.split(remote) == ["cd", str(folder), "&&", "exec", sys.executable, "-m", "megatron.launcher.agent"]


def test_programs_that_are_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(SettingsError, match="program 'ssh', which is not on PATH"):
        Connections(["node1"], "ssh")
    (tmp_path / "ssh").write_text("#!/bin/sh\n")
    (tmp_path / "ssh").chmod(0o755)
    with pytest.raises(SettingsError, match=r"apt install pdsh.*launcher: ssh does without it"):
        Connections(["node1"], "pdsh")


@pytest.mark.multiprocess
def test_a_pdsh_without_its_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, text in (
        ("ssh", "exit 1"),
        ("pdsh", f"ulimit -n > {tmp_path}/files; echo 'pdsh: no such rcmd module \"exec\"'; exit 1"),
    ):
        (tmp_path / name).write_text(f"#!/bin/sh\n{text}\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    with pytest.raises(SettingsError, match=r'(?s)for node1, node2: .*no such rcmd module "exec".*launcher: ssh'):
        Connections(["node1", "node2"], "pdsh")
    assert int((tmp_path / "files").read_text()) <= 272, "pdsh closes all file numbers up to its limit"

"""What a run on one host opens to the outside: files that others may write, ports, connections to elsewhere."""

import os
import socket
import stat
from pathlib import Path
from typing import Any

import pytest

from tests.helpers.processes import run_ranks
from tests.helpers.tiny_run import tiny_settings, write_settings, write_tiny_data

LISTENS = "0A"


@pytest.mark.multiprocess
def test_a_training_run(tmp_path: Path) -> None:
    """Two ranks train and save: one port is open beyond this machine, nothing is asked for, no file is for others."""
    data = write_tiny_data(tmp_path / "data")
    settings = tiny_settings(data, train_iters=2, checkpoint_factor=2, save=str(tmp_path / "run"), eval_iters=1)
    config = write_settings(tmp_path / "config.yml", settings | {"log_dir": str(tmp_path / "logs")})
    found = run_ranks(training_run, 2, str(config))
    assert [one["asked"] for one in found] == [[], []], "connections or names that were asked for"
    # torch's store takes no address to listen on: docs/security.md says so.
    assert [one["open"] for one in found] == [1, 0]
    assert all(one["within"] >= 1 for one in found), "no port found at all: the test is blind"
    written = [path for folder in ("run", "logs") for path in (tmp_path / folder).rglob("*")]
    assert len(written) > 5
    for path in written:
        assert not stat.S_IMODE(path.stat().st_mode) & 0o077, path


def training_run(config: str) -> dict[str, Any]:
    """How many ports this rank listens on, beyond this machine and within it, and what it asked for elsewhere."""
    os.umask(0o077)
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    asked: list[str] = []
    watch_connections(asked)
    from megatron.neox_arguments.load import load_arguments
    from megatron.training.build import build_run, start_parallel
    from megatron.training.loop import train

    args = load_arguments([config], [], world_size=2)
    run = build_run(args, start_parallel(args))
    train(run)
    ports = listening()
    return {
        "asked": asked,
        "open": sum(not within for within in ports),
        "within": sum(ports) + (os.environ["RANK"] == "0"),
    }


def watch_connections(asked: list[str]) -> None:
    connect, look_up = socket.socket.connect, socket.getaddrinfo

    def watched_connect(self: socket.socket, address: Any) -> None:
        if self.family != socket.AF_UNIX and address[0] not in ("127.0.0.1", "::1", "localhost"):
            asked.append(str(address))
        connect(self, address)

    def watched_look_up(host: Any, *rest: Any, **options: Any) -> Any:
        if host not in (None, "127.0.0.1", "::1", "localhost", socket.gethostname()):
            asked.append(str(host))
        return look_up(host, *rest, **options)

    socket.socket.connect = watched_connect  # type: ignore[method-assign]
    socket.getaddrinfo = watched_look_up


def listening() -> list[bool]:
    """For each TCP port that this process listens on: only on this machine's own address?"""
    own = {os.readlink(path)[8:-1] for path in Path("/proc/self/fd").iterdir() if _is_socket(path)}
    found = []
    for table in ("tcp", "tcp6"):
        for line in Path("/proc/self/net", table).read_text().splitlines()[1:]:
            words = line.split()
            if words[3] == LISTENS and words[9] in own:
                address = words[1].partition(":")[0]
                found.append(address in ("0100007F", "0" * 24 + "01000000", "0000000000000000FFFF00000100007F"))
    return found


def _is_socket(path: Path) -> bool:
    try:
        return os.readlink(path).startswith("socket:[")
    except OSError:
        return False

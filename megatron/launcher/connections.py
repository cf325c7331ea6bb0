"""One ssh per host, started by us or by pdsh, with its input and output in our hands.

Nothing of a run stands in an argument of ssh: the remote command is the same for every run from this folder, and what
the host needs to know goes over its standard input.
"""

import contextlib
import json
import os
import resource
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from megatron.errors import SettingsError
from megatron.launcher.environment import repository_root
from megatron.launcher.parent_death import die_with_parent
from megatron.launcher.ssh import OPTIONS

WITH_AGENTS = ("pdsh", "ssh")
# No terminal, and no connection shared with another ssh, which would outlive the one that we watch.
_OPTIONS = [*OPTIONS.split(), "-o", "RequestTTY=no", "-o", "ControlPath=none"]
_SECONDS_FOR_PDSH = 60.0


def ssh_command(host: str, environment: Mapping[str, str], module: str = "megatron.launcher.agent") -> list[str]:
    """Runs one of our modules there. PDSH_SSH_ARGS_APPEND holds more options of the user's, as for pdsh itself."""
    own = shlex.split(environment.get("PDSH_SSH_ARGS_APPEND", ""))
    return [shutil.which("ssh") or "ssh", *own, *_OPTIONS, host, shell_command(module)]


def shell_command(module: str) -> str:
    """For the shell of any host: one of our modules, run as here."""
    return f"cd {shlex.quote(str(repository_root()))} && exec {shlex.quote(sys.executable)} -m {module}"


class Connections:
    """A socket to each host's ssh, and the programs behind them; close() ends what is left of these."""

    def __init__(self, hosts: Sequence[str], launcher: str) -> None:
        """launcher: "ssh" or "pdsh". SettingsError when the program is missing or does not do its part."""
        for program in {"ssh", launcher}:
            if shutil.which(program) is None:
                raise SettingsError(_missing(program))
        self._started: list[subprocess.Popen[bytes]] = []
        self.sockets: dict[str, socket.socket] = {}
        try:
            if launcher == "ssh":
                for host in hosts:
                    self.sockets[host] = self._ssh(host)
            else:
                with tempfile.TemporaryDirectory(prefix="deepy-") as folder:
                    self._pdsh(hosts, Path(folder))
        except BaseException:
            self.close(0.0)
            raise

    def close(self, seconds: float = 5.0) -> None:
        """Hang up; the agents end by themselves, and whoever still holds a connection after that is killed."""
        for connection in self.sockets.values():
            connection.close()
        deadline = time.monotonic() + seconds
        for process in self._started:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(max(0.0, deadline - time.monotonic()))
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()

    def _ssh(self, host: str) -> socket.socket:
        ours, theirs = socket.socketpair()
        with theirs:
            self._start(ssh_command(host, os.environ), theirs.fileno(), theirs.fileno())
        return ours

    def _pdsh(self, hosts: Sequence[str], folder: Path) -> None:
        """pdsh starts all workers at once; each calls back, and is told which ssh to become."""
        path, words = folder / "socket", folder / "words"
        worker = [sys.executable, "-S", str(Path(__file__).with_name("pdsh_worker.py")), str(path), "%h"]
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as door, words.open("wb") as output:
            door.bind(str(path))
            door.listen(len(hosts))
            door.settimeout(0.1)
            command = ["pdsh", "-R", "exec", "-f", str(len(hosts)), "-w", ",".join(hosts), *worker]
            # pdsh closes every file number that it might have, one by one: a limit of 2**30 would take it minutes.
            pdsh = self._start(command, subprocess.DEVNULL, output.fileno(), files=8 * len(hosts) + 256)
            deadline = time.monotonic() + _SECONDS_FOR_PDSH
            while len(self.sockets) < len(hosts):
                with contextlib.suppress(TimeoutError):
                    connection, _ = door.accept()
                    connection.settimeout(None)
                    host = json.loads(connection.makefile("rb", buffering=0).readline())
                    connection.sendall(json.dumps(ssh_command(host, os.environ)).encode("ascii") + b"\n")
                    self.sockets[host] = connection
                    continue
                if pdsh.poll() is not None or time.monotonic() > deadline:
                    missing = ", ".join(host for host in hosts if host not in self.sockets)
                    said = words.read_text(encoding="utf-8", errors="replace").strip()
                    raise SettingsError(
                        f"pdsh did not start an ssh for {missing}: {said or f'it ended with {pdsh.poll()}'}\n"
                        "It needs its module `exec` (`pdsh -L` lists them). launcher: ssh does without pdsh."
                    )

    def _start(
        self, command: Sequence[str], stdin: int, output: int, files: int | None = None
    ) -> subprocess.Popen[bytes]:
        """files: how many the program may have open, if that matters to it."""
        with_parent = die_with_parent(os.getpid())

        def in_child() -> None:
            with_parent()
            if files is not None:
                soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
                resource.setrlimit(resource.RLIMIT_NOFILE, (min(soft, files) if soft > 0 else files, hard))

        process = subprocess.Popen(
            list(command),
            stdin=stdin,
            stdout=output,
            stderr=output,
            start_new_session=True,  # a Ctrl-C is for us to pass on
            preexec_fn=in_child,
        )
        self._started.append(process)
        return process


def _missing(program: str) -> str:
    if program == "pdsh":
        return (
            "launcher 'pdsh' needs the program 'pdsh', which is not on PATH "
            "(on Debian and Ubuntu: `apt install pdsh`). launcher: ssh does without it."
        )
    return f"a run on several hosts needs the program {program!r}, which is not on PATH."

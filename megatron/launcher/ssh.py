"""A parcel brought to every host by ssh, all at once, through standard input."""

import contextlib
import os
import secrets
import subprocess
from collections.abc import Iterator, Sequence

from megatron.errors import SettingsError

# A cut cable is noticed by ssh after 15 s; without these options it waits for ever.
OPTIONS = "-o BatchMode=yes -o ConnectTimeout=10 -o ServerAliveInterval=5 -o ServerAliveCountMax=3"


@contextlib.contextmanager
def delivered(hosts: Sequence[str], content: bytes, seconds: float = 60.0) -> Iterator[str]:
    """The path of a file with this content on every host, in a folder for its owner alone; removed at the end."""
    folder = f"/tmp/deepy-{secrets.token_hex(16)}"
    path = f"{folder}/parcel"
    # Hosts may share /tmp: the folder may be there already, but it must be a folder and ours.
    ours = f"mkdir -m 700 {folder} 2>/dev/null || test -O {folder} -a ! -L {folder}"
    write = f"(umask 077 && cat > {path}.$$ && mv -f {path}.$$ {path})"
    try:
        if faults := _on_all(hosts, f"({ours}) && {write}", content, seconds):
            raise SettingsError("the settings could not be brought to these hosts:\n" + "\n".join(faults))
        yield path
    finally:
        _on_all(hosts, f"rm -f {path} && rmdir {folder}", b"", seconds)


def _on_all(hosts: Sequence[str], command: str, content: bytes, seconds: float) -> list[str]:
    """Run `command` on all hosts with `content` as its standard input; a line for each host where it failed."""
    started = {host: _start(host, command) for host in hosts}
    with contextlib.ExitStack() as running:
        for process in started.values():
            running.callback(process.kill)
        return [f"  {host}: {reason}" for host in hosts if (reason := _failure(started[host], content, seconds))]


def _start(host: str, command: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        ["ssh", *OPTIONS.split(), host, command],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        env={**os.environ, "LC_ALL": "C"},
    )


def _failure(process: subprocess.Popen[bytes], content: bytes, seconds: float) -> str:
    try:
        _, words = process.communicate(content, timeout=seconds)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
        return f"no answer within {seconds:.0f} s"
    if process.returncode == 0:
        return ""
    return words.decode(errors="replace").strip() or f"ssh ended with {process.returncode}"

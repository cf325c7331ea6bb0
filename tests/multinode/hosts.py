"""Several hosts on one machine, each with its own network, processes and files; sshd and plain `ssh NAME` between them.

By hand: `python -m tests.multinode.hosts 3` starts three, says how to enter one, and ends them on Ctrl-C.
Needs root, iproute2, util-linux, openssh and pdsh (tests/multinode/install.sh). Touches nothing of the machine itself:
its addresses, files and sshd stay as they are, and all hosts end with the process that started them.
"""

import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from megatron.launcher.parent_death import die_with_parent

NEEDED = ("ip", "unshare", "nsenter", "mount", "sshd", "ssh", "ssh-keygen", "pdsh")
_PREFIX = "slns"  # of the names of network name spaces and interfaces: slns<process id>h<number>
_ADDRESS = "10.77.0.{}"
_SBIN = os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/sbin", "/sbin"])
_ENVIRONMENT = {**os.environ, "PATH": _SBIN}
_counter = 0


def what_is_missing() -> str | None:
    """Why no hosts can be made here, or None."""
    if sys.platform != "linux" or os.geteuid() != 0:
        return "name spaces need Linux and root"
    missing = [program for program in NEEDED if shutil.which(program, path=_SBIN) is None]
    if missing:
        return f"not installed: {', '.join(missing)} (tests/multinode/install.sh installs them on Debian and Ubuntu)"
    probe = f"{_PREFIX}{os.getpid()}z0"
    everything = f"ip netns add {probe} && ip netns delete {probe} && ip link add type bridge && ip link add type veth"
    tried = subprocess.run(
        ["unshare", "--net", "--uts", "--ipc", "--pid", "--fork", "--mount", "--mount-proc", "sh", "-c", everything],
        env=_ENVIRONMENT, capture_output=True, text=True,
    )  # fmt: skip
    return None if tried.returncode == 0 else f"this machine makes no name spaces: {tried.stderr.strip()}"


class Host:
    """One host. `inner` is its process 1 as this machine numbers it; `run` a folder that is its /run."""

    def __init__(self, name: str, number: int, space: str, folder: Path, shadowed: dict[Path, Path]) -> None:
        """shadowed: file of the machine -> file that this host alone has in its place."""
        self.name, self.address, self.space = name, _ADDRESS.format(number), space
        self.folder, self.run = folder, folder / "run"
        self.shadowed = shadowed
        self._outer: subprocess.Popen[bytes] | None = None

    def start(self, sshd: bool = True) -> None:
        """Power on. The network name space stays from the time before."""
        shutil.rmtree(self.run, ignore_errors=True)
        for folder in (self.run / "sshd", self.run / "lock"):
            folder.mkdir(parents=True)
        _mounts = [f"mount --bind {new} {old}" for old, new in self.shadowed.items()]
        lines = ["set -e", f"hostname {self.name}", f"mount --bind {self.run} /run", "mount -t tmpfs tmpfs /dev/shm"]
        first = (
            [f"$(command -v sshd) -D -f {self.folder / 'sshd_config'} -E {self.folder / 'sshd.log'} &"] if sshd else []
        )
        # Process 1 takes in orphans and waits; what it starts first is sshd.
        last = ["touch /run/up", "exec 0</dev/null", "while :; do sleep 1000 & wait; done"]
        script = "\n".join([*lines, *_mounts, *first, *last])
        self._outer = subprocess.Popen(
            ["ip", "netns", "exec", self.space, "unshare", "--uts", "--pid", "--ipc", "--fork", "--kill-child",
             "--mount", "--mount-proc", "sh", "-c", script],
            env={"PATH": _SBIN, "HOME": "/root"},
            stdin=subprocess.DEVNULL,
            stdout=(self.folder / "boot.log").open("ab"),
            stderr=subprocess.STDOUT,
            start_new_session=True,
            preexec_fn=die_with_parent(os.getpid()),
        )  # fmt: skip
        _until(lambda: (self.run / "up").exists() or self._outer.poll() is not None, f"{self.name} to start")
        assert self._outer.poll() is None, (self.folder / "boot.log").read_text()
        [self.inner] = children(self._outer.pid)

    def popen(
        self, command: Sequence[str], cwd: Path, environment: dict[str, str], output: Path
    ) -> subprocess.Popen[bytes]:
        """Start a command here as a user at this host would; the process returned is its door, with it as a child."""
        words = ["nsenter", "-t", str(self.inner), "--mount", "--uts", "--ipc", "--net", "--pid"]
        words += ["sh", "-c", 'cd "$1" && shift && exec "$@"', "sh", str(cwd), *command]
        with output.open("ab") as out:
            return subprocess.Popen(
                words, env=environment, stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.STDOUT,
                start_new_session=True, preexec_fn=die_with_parent(os.getpid()),
            )  # fmt: skip

    def processes(self) -> dict[int, str]:
        """Process id on this machine -> command line, of all that run on the host but its process 1 and sshd.

        sshd keeps a session whose line was cut until its kernel gives the connection up, some 15 minutes.
        """
        found = {}
        for pid in self._all():
            with contextlib.suppress(OSError):
                words = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
                if words and pid != self.inner and not words.startswith(("sleep 1000", "sshd: ", "/usr/sbin/sshd -D")):
                    found[pid] = words
        return found

    def kill(self) -> None:
        """SIGKILL to everything on it, at once: the kernel ends a process name space with its process 1."""
        if self._outer is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.inner, signal.SIGKILL)
            self._outer.kill()
            self._outer.wait()
            self._outer = None

    def freeze(self) -> None:
        """SIGSTOP to everything on it; its kernel still answers the network's lowest layers."""
        before: set[int] = set()
        while (now := self._all()) != before:
            for pid in now:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGSTOP)
            before = now

    def thaw(self) -> None:
        for pid in self._all():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)

    def cut(self) -> None:
        """Pull the cable: nothing is answered, nothing is refused."""
        _ip("-n", self.space, "link", "set", "eth0", "down")

    def mend(self) -> None:
        _ip("-n", self.space, "link", "set", "eth0", "up")

    def plan(self, moment: str) -> None:
        """Its first rank is to stop at "PHASE,STEP" under faulty/train.py, until `go_on`."""
        (self.run / "fault").write_text(moment)

    def reached(self) -> bool:
        return (self.run / "reached").exists()

    def go_on(self) -> None:
        (self.run / "go").touch()

    def stop_sshd(self) -> None:
        for pid in self._all():
            with contextlib.suppress(OSError):
                if b"sshd" in Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")[0]:
                    os.kill(pid, signal.SIGKILL)

    def _all(self) -> set[int]:
        own = os.readlink(f"/proc/{self.inner}/ns/pid") if Path(f"/proc/{self.inner}").exists() else None
        found = set()
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit() and own is not None:
                with contextlib.suppress(OSError):
                    if os.readlink(entry / "ns" / "pid") == own:
                        found.add(int(entry.name))
        return found


class Hosts:
    """A switch with `count` hosts node1, node2, ..., up inside `with`. shadowed: see Host, by host name."""

    def __init__(self, count: int, folder: Path, shadowed: dict[str, dict[Path, Path]] | None = None) -> None:
        global _counter
        _counter += 1
        self._name = f"{_PREFIX}{os.getpid()}{chr(ord('a') + (_counter - 1) % 26)}"
        self._switch = f"{self._name}0"
        self.folder = folder
        names = [f"node{number}" for number in range(1, count + 1)]
        self.all = [
            Host(name, number, f"{self._name}{number}", folder / name, dict((shadowed or {}).get(name, {})))
            for number, name in enumerate(names, start=1)
        ]

    def __getitem__(self, name: str) -> Host:
        return next(host for host in self.all if host.name == name)

    def __enter__(self) -> "Hosts":
        remove_leftovers()
        try:
            self._wire()
            self._write_files()
            for host in self.all:
                host.start()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        for host in self.all:
            host.kill()
        for space in (*(host.space for host in self.all), self._switch):
            _ip("netns", "delete", space, check=False)

    def hostfile(self, slots: Sequence[int]) -> Path:
        """A hostfile with so many slots on node1, node2, ..."""
        path = self.folder / f"hostfile-{'-'.join(map(str, slots))}"
        path.write_text("".join(f"node{number} slots={n}\n" for number, n in enumerate(slots, start=1)))
        return path

    def _wire(self) -> None:
        _ip("netns", "add", self._switch)
        _ip("-n", self._switch, "link", "add", "switch", "type", "bridge")
        _ip("-n", self._switch, "link", "set", "switch", "up")
        for number, host in enumerate(self.all, start=1):
            _ip("netns", "add", host.space)
            _ip("-n", host.space, "link", "set", "lo", "up")
            _ip(
                "-n",
                host.space,
                "link",
                "add",
                "eth0",
                "type",
                "veth",
                "peer",
                "name",
                f"port{number}",
                "netns",
                self._switch,
            )
            _ip("-n", self._switch, "link", "set", f"port{number}", "master", "switch", "up")
            _ip("-n", host.space, "address", "add", f"{host.address}/24", "dev", "eth0")
            _ip("-n", host.space, "link", "set", "eth0", "up")

    def _write_files(self) -> None:
        """Keys, names and settings of ssh; in each host they lie over the machine's own."""
        self.folder.mkdir(parents=True, exist_ok=True)
        key, host_key = self.folder / "id", self.folder / "host_key"
        for path in (key, host_key):
            if not path.exists():
                subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(path)], check=True)
        known = host_key.with_suffix(".pub").read_text()
        (self.folder / "known_hosts").write_text("".join(f"{host.name} {known}" for host in self.all))
        (self.folder / "ssh_config").write_text(
            f"Host *\n  IdentityFile {key}\n  IdentitiesOnly yes\n  StrictHostKeyChecking yes\n"
            f"  UserKnownHostsFile /dev/null\n  GlobalKnownHostsFile {self.folder / 'known_hosts'}\n"
        )
        names = "".join(f"{host.address} {host.name}\n" for host in self.all)
        (self.folder / "hosts").write_text(f"127.0.0.1 localhost\n{names}")
        accounts = Path("/etc/shadow").read_text()
        (self.folder / "shadow").touch(0o600)
        (self.folder / "shadow").write_text(re.sub(r"^root:!", "root:*", accounts, flags=re.M))
        for host in self.all:
            host.folder.mkdir(exist_ok=True)
            keys = host.folder / "authorized_keys"
            shutil.copy(key.with_suffix(".pub"), keys)
            (host.folder / "sshd_config").write_text(
                f"ListenAddress {host.address}\nHostKey {host_key}\nAuthorizedKeysFile {keys}\nStrictModes no\n"
                "UsePAM no\nPasswordAuthentication no\nPermitRootLogin yes\nPidFile none\nUseDNS no\nMaxStartups 100\n"
            )
            host.shadowed |= {
                Path("/etc/hosts"): self.folder / "hosts",
                Path("/etc/shadow"): self.folder / "shadow",  # sshd lets no account in that is locked with a `!`
                Path("/etc/ssh/ssh_config"): self.folder / "ssh_config",
            }


def remove_leftovers() -> None:
    """End and remove the hosts of processes that are no more (killed before they could)."""
    listed = subprocess.run(["ip", "netns", "list"], capture_output=True, text=True, env=_ENVIRONMENT)
    for line in listed.stdout.splitlines():
        space = line.split()[0]
        ours = re.fullmatch(_PREFIX + r"(\d+)[a-z]\d+", space)
        if not ours or Path("/proc", ours[1]).exists():
            continue
        for pid in _ip("netns", "pids", space, check=False).split():
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(pid), signal.SIGKILL)
        _ip("netns", "delete", space, check=False)


def _ip(*words: str, check: bool = True) -> str:
    done = subprocess.run(["ip", *words], capture_output=True, text=True, env=_ENVIRONMENT)
    assert done.returncode == 0 or not check, f"ip {' '.join(words)}: {done.stderr}"
    return done.stdout


def children(pid: int) -> list[int]:
    return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def _until(condition: object, what: str, seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < deadline, f"waited {seconds:.0f} s for {what}"
        time.sleep(0.02)


def main(words: Sequence[str]) -> int:
    missing = what_is_missing()
    if missing:
        print(missing)
        return 2
    with tempfile.TemporaryDirectory() as folder, Hosts(int(words[0]) if words else 2, Path(folder)) as hosts:
        for host in hosts.all:
            print(f"{host.name} {host.address}: nsenter -t {host.inner} --mount --uts --ipc --net --pid bash")
        print(f"hostfile with two slots each: {hosts.hostfile([2] * len(hosts.all))}\nCtrl-C ends them.")
        with contextlib.suppress(KeyboardInterrupt):
            signal.pause()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

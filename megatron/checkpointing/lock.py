"""One run at a time in a `save` folder: a lock with host, process and a heartbeat.

The lock is a folder that holds one file, named by its holder's token. It is made elsewhere and renamed to its place,
which POSIX refuses while a folder with anything in it is there; a dead holder's file is unlinked by name, which never
hits the next holder's. So nothing that another run does between a look and the act on it can make two holders.

A process on this machine is asked for directly; any other counts as alive while its heartbeat, the file's time, moves.
Clocks of different machines are never compared.
"""

import contextlib
import errno
import json
import os
import shutil
import socket
import threading
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from megatron.errors import CheckpointError

LOCK = ".run-lock"
HEARTBEAT = 10.0
_MISSED = 3  # heartbeats after which a holder on another machine counts as dead
_TRIES = 20
_OPEN_ELSEWHERE = ".nfs"  # what NFS leaves of a file that was unlinked while somebody read it


class RunLock:
    """Held from `take` to `release`; a daemon thread keeps the heartbeat."""

    def __init__(self, save: Path, token: str, heartbeat: float) -> None:
        self._save, self._token, self._interval = save, token, heartbeat
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._beat, daemon=True, name="run-lock")
        self._thread.start()

    @classmethod
    def take(
        cls, save: Path, say: Callable[[str], None] = lambda text: None, heartbeat: float = HEARTBEAT
    ) -> "RunLock":
        """Lock `save`, or raise CheckpointError naming the run that holds it; a dead holder's lock is taken over."""
        token, dead = uuid.uuid4().hex, None
        for _ in range(_TRIES):
            if _place(save, token, heartbeat):
                if dead is not None:
                    say(f"Took over {save}: the run that held it ({dead}) is dead.")
                _remove_unplaced(save)
                return cls(save, token, heartbeat)
            holder = _holder(save)
            if holder is None:
                time.sleep(0.01)  # it is changing hands
                continue
            if _is_alive(save, holder, say):
                raise CheckpointError(
                    f"{save} is in use by the run on {holder}. "
                    "Wait for it, stop it, or choose another folder with --set save=FOLDER."
                )
            with contextlib.suppress(FileNotFoundError):
                (save / LOCK / holder.token).unlink()
                dead = holder
        raise CheckpointError(f"{save / LOCK} cannot be had: other runs are starting in the same folder. Start again.")

    def check(self) -> None:
        """Before anything is written: the lock is still ours. Raises CheckpointError naming the run that took it over.

        That run saw no heartbeat of this one: stopped for long, or cut off from the file system. A lock that was
        removed by hand is taken again.
        """
        if not (self._save / LOCK / self._token).exists() and not _place(self._save, self._token, self._interval):
            raise CheckpointError(
                f"{self._save} was taken over by the run on {_holder(self._save) or 'another host'}, which saw no sign "
                f"of life of this one for {_MISSED * self._interval:.0f} s. This run saves no more and ends here; the "
                "other goes on from the newest checkpoint."
            )

    def release(self) -> None:
        """Stop the heartbeat and remove the lock, if it is still ours."""
        self._end.set()
        self._thread.join()
        with contextlib.suppress(OSError):  # what cannot be removed is a dead run's lock, or already another's
            (self._save / LOCK / self._token).unlink()
            (self._save / LOCK).rmdir()

    def _beat(self) -> None:
        while not self._end.wait(self._interval):
            with contextlib.suppress(OSError):  # a missed beat is forgiven; a lock that is gone is found by `check`
                os.utime(self._save / LOCK / self._token)


@dataclass(frozen=True)
class _Holder:
    """Who holds a lock. content: as `_place` wrote it, {} when it cannot be read. beat: the file's time, in ns."""

    token: str
    content: dict[str, Any]
    beat: int

    def __str__(self) -> str:
        host, process, since = (self.content.get(key, "?") for key in ("host", "pid", "since"))
        return f"host {host}, process {process}, since {since}"


def _place(save: Path, token: str, heartbeat: float) -> bool:
    """Put a lock of ours into its place, content and all, in one step; False when another is there."""
    content = {
        "host": socket.gethostname(),
        "machine": _machine(),
        "pid": os.getpid(),
        "started": _process_start(os.getpid()),
        "since": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "heartbeat_seconds": heartbeat,
    }
    save.mkdir(parents=True, exist_ok=True)
    unplaced = save / f"{LOCK}.{token}"
    try:
        unplaced.mkdir()
        (unplaced / token).write_text(json.dumps(content), encoding="utf-8")
        os.rename(unplaced, save / LOCK)
    except OSError as error:
        shutil.rmtree(unplaced, ignore_errors=True)
        if error.errno == errno.ENOTDIR:
            raise CheckpointError(
                f"{save / LOCK} is a file, the lock of an older version of this program. If no run uses the folder "
                f"any more, remove it: rm {save / LOCK}"
            ) from error
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOENT):  # ENOENT: tidied by one that was faster
            raise
    # What stands there decides, not the error: over NFS a rename may be done and yet reported as failed.
    return (save / LOCK / token).exists()


def _remove_unplaced(save: Path) -> None:
    """What killed runs left of locks that never came to their place; one still on its way would be refused anyway."""
    for unplaced in save.glob(f"{LOCK}.*"):
        shutil.rmtree(unplaced, ignore_errors=True)


def _holder(save: Path) -> _Holder | None:
    """Whose file the lock holds; None when it holds none."""
    try:
        tokens = [name for name in os.listdir(save / LOCK) if not name.startswith(_OPEN_ELSEWHERE)]
    except (FileNotFoundError, NotADirectoryError):
        return None
    return _read(save, tokens[0]) if tokens else None


def _read(save: Path, token: str) -> _Holder | None:
    """The holder of that token; None when its file is gone."""
    try:
        with open(save / LOCK / token, encoding="utf-8", errors="replace") as file:  # opened: NFS asks the server then
            beat = os.fstat(file.fileno()).st_mtime_ns
            text = file.read()
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ESTALE):  # the second: gone, as NFS says it
            return None
        raise
    try:
        content = json.loads(text)
    except ValueError:
        content = {}
    return _Holder(token, content if isinstance(content, dict) else {}, beat)


def _is_alive(save: Path, holder: _Holder, say: Callable[[str], None]) -> bool:
    if holder.content.get("machine") is not None and holder.content["machine"] == _machine():
        started = _process_start(holder.content.get("pid"))
        return started is not None and started == holder.content.get("started")
    try:
        seconds = _MISSED * float(holder.content.get("heartbeat_seconds", HEARTBEAT))
    except (TypeError, ValueError):
        seconds = _MISSED * HEARTBEAT
    say(f"{save} is held from {holder}; watching its heartbeat for {seconds:.0f} s.")
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        time.sleep(min(0.2, seconds / 10))
        now = _read(save, holder.token)
        if now is None:
            return False
        if now.beat != holder.beat:
            return True
    return False


def _machine() -> str | None:
    """Where process numbers mean the same: one boot of one kernel and one namespace of it (a container has its own)."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="utf-8").strip()
        return f"{boot}/{os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return None


def _process_start(pid: Any) -> str | None:
    """When the process started, which no later process of the same number shares; None when it is gone."""
    try:
        fields = Path(f"/proc/{int(pid)}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    except (OSError, ValueError, TypeError):
        return None
    return None if fields[0] == "Z" else fields[19]

"""One run at a time in a `save` folder: a lock file with host, process and a heartbeat.

A process on this host is asked for directly; one on another host counts as alive while its heartbeat moves. Clocks of
different hosts are never compared.
"""

import contextlib
import json
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

from megatron.errors import CheckpointError

LOCK = ".run-lock"
HEARTBEAT = 10.0
_MISSED = 3  # heartbeats after which a holder on another host counts as dead


class RunLock:
    """Held from `take` to `release`; a daemon thread keeps the heartbeat."""

    def __init__(self, path: Path, content: dict[str, Any], heartbeat: float) -> None:
        self._path, self._content, self._interval = path, content, heartbeat
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._beat, daemon=True, name="run-lock")
        self._thread.start()

    @classmethod
    def take(
        cls, save: Path, say: Callable[[str], None] = lambda text: None, heartbeat: float = HEARTBEAT
    ) -> "RunLock":
        """Lock `save`, or raise CheckpointError naming the run that holds it; a dead holder's lock is taken over."""
        save.mkdir(parents=True, exist_ok=True)
        path = save / LOCK
        content = {
            "token": uuid.uuid4().hex,
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "started": _process_start(os.getpid()),
            "since": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            "heartbeat_seconds": heartbeat,
            "beat": 0,
        }
        for _ in range(3):
            if _create(path, content):
                return cls(path, content, heartbeat)
            holder = _read(path)
            if holder is None:
                continue
            if _is_alive(path, holder, say):
                raise CheckpointError(
                    f"{save} is in use by the run on host {holder.get('host')}, process {holder.get('pid')}, since "
                    f"{holder.get('since')}. Wait for it, stop it, or choose another folder with --set save=FOLDER."
                )
            if _remove(path, holder):
                say(
                    f"Took over {save}: the run that held it (host {holder.get('host')}, process "
                    f"{holder.get('pid')}, since {holder.get('since')}) is dead."
                )
        raise CheckpointError(f"{path} cannot be had: other runs are starting in the same folder. Start again.")

    def release(self) -> None:
        """Stop the heartbeat and remove the lock, if it is still ours."""
        self._end.set()
        self._thread.join()
        _remove(self._path, self._content)

    def _beat(self) -> None:
        while not self._end.wait(self._interval):
            self._content["beat"] += 1
            with contextlib.suppress(OSError):  # a full disk must not end the run; a missed beat is forgiven
                held = _read(self._path)
                if held is None or held.get("token") == self._content["token"]:
                    temporary = self._path.with_name(f"{LOCK}.{self._content['token']}")
                    temporary.write_text(json.dumps(self._content), encoding="utf-8")
                    os.replace(temporary, self._path)


def _create(path: Path, content: dict[str, Any]) -> bool:
    """Make the lock with its content in one step (a link of a finished file); False when there is one already."""
    temporary = path.with_name(f"{LOCK}.{content['token']}")
    temporary.write_text(json.dumps(content), encoding="utf-8")
    try:
        os.link(temporary, path)
    except FileExistsError:
        return False
    finally:
        temporary.unlink()
    return True


def _read(path: Path) -> dict[str, Any] | None:
    """The lock's content; {} when it cannot be understood; None when there is none."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _remove(path: Path, content: dict[str, Any]) -> bool:
    """Remove the lock if it still has this content's token; whoever else came first keeps it."""
    aside = path.with_name(f"{LOCK}.{uuid.uuid4().hex}")
    try:
        os.replace(path, aside)
    except FileNotFoundError:
        return False
    found = _read(aside) or {}
    if found.get("token") != content.get("token"):
        with contextlib.suppress(FileExistsError):
            os.link(aside, path)
        aside.unlink()
        return False
    aside.unlink()
    return True


def _is_alive(path: Path, holder: dict[str, Any], say: Callable[[str], None]) -> bool:
    if holder.get("host") == socket.gethostname():
        started = _process_start(holder.get("pid"))
        return started is not None and started == holder.get("started")
    try:
        seconds = _MISSED * float(holder.get("heartbeat_seconds", HEARTBEAT))
    except (TypeError, ValueError):
        seconds = _MISSED * HEARTBEAT
    say(f"{path.parent} is held from host {holder.get('host', '?')}; watching its heartbeat for {seconds:.0f} s.")
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        time.sleep(min(0.2, seconds / 10))
        now = _read(path)
        if now is None:
            return False
        if now.get("beat") != holder.get("beat") or now.get("token") != holder.get("token"):
            return True
    return False


def _process_start(pid: Any) -> str | None:
    """When the process started, in a form that no later process of the same number shares; None when it is gone."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        fields = Path(f"/proc/{int(pid)}/stat").read_text().rpartition(")")[2].split()
    except (OSError, ValueError, TypeError):
        return None
    return None if fields[0] == "Z" else f"{boot}:{fields[19]}"

"""Runs numbered steps, each one command that a reader can repeat by hand; finished steps are recognised and skipped.

What a step is known by: its command, the contents of the files it reads, and the presence of the files it makes.
"""

import hashlib
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

STOPPED_AFTER_SAVE = 75
SMALL_FILE = 1 << 16
PROGRESS_SECONDS = 60.0


@dataclass(frozen=True)
class Step:
    """One command of the quickstart.

    command: as typed in a shell (with `python` and `lm_eval` of the virtual environment).  reads, makes: files and
    folders.  clears: what an unfinished earlier try may have left.  expect: the exit code of success.
    shows: lines of its output that match this pattern are shown as they come, after `prefix`; the log gets all lines.
    """

    name: str
    title: str
    command: str
    reads: Sequence[Path]
    makes: Sequence[Path]
    clears: Sequence[Path] = ()
    expect: int = 0
    shows: str = ""
    prefix: str = "  | "
    environment: dict[str, str] | None = None


class StepFailed(Exception):
    """A step ended with another exit code than it should; carries that code."""

    def __init__(self, code: int) -> None:
        super().__init__(f"exit code {code}")
        self.code = code


class StepRunner:
    """Runs steps in order and remembers in `folder`/steps what was done and how long it took."""

    def __init__(self, folder: Path, total: int) -> None:
        self.folder, self.total = folder, total
        self.number = 0
        self.seconds: dict[str, float] = {}
        self.skipped: list[str] = []
        self._running: set[str] = set()
        self._redo = False

    def run(self, step: Step) -> None:
        """Do the step, or say that it is done. After a step that was done anew, all later ones are done anew."""
        self.number += 1
        heading = f"[{self.number}/{self.total}] {step.title}"
        if not self._redo and self._is_done(step):
            print(f"{heading}: done before, in {self.seconds[step.name]:.1f} s; skipped", flush=True)
            return
        self._redo = True
        print(f"\n{heading}\n  $ {_shown(step)}", flush=True)
        self._do(step)
        print(f"  done in {self.seconds[step.name]:.1f} s", flush=True)

    def run_together(self, title: str, steps: Sequence[Step], jobs: int) -> None:
        """Do those of the steps that are not done, `jobs` at a time; what one prints last is shown every minute.

        Each step is judged alone: name what it depends on in `reads`. When one fails, those that run are still
        finished, no other is begun, and StepFailed is raised.
        """
        self.number += 1
        waiting = [step for step in steps if not self._is_done(step)]
        done = len(steps) - len(waiting)
        print(f"\n[{self.number}/{self.total}] {title}: {len(steps)}, {done} of them done before", flush=True)
        if not waiting:
            return
        finished = threading.Event()
        ticker = threading.Thread(target=self._tell_progress, args=(waiting, finished), daemon=True)
        ticker.start()
        pool = ThreadPoolExecutor(jobs)
        try:
            futures = {pool.submit(self._do_quietly, step): step for step in waiting}
            for future in as_completed(futures):
                future.result()
                done += 1
                step = futures[future]
                print(f"  {done}/{len(steps)} {step.name} in {self.seconds[step.name]:.0f} s", flush=True)
        finally:
            pool.shutdown(wait=True, cancel_futures=True)
            finished.set()
            ticker.join()

    def _is_done(self, step: Step) -> bool:
        done = _read(self._record(step))
        if done.get("known_by") != _known_by(step) or not all(path.exists() for path in step.makes):
            return False
        self.seconds[step.name] = float(done["seconds"])
        self.skipped.append(step.name)
        return True

    def _do_quietly(self, step: Step) -> None:
        self._do(replace(step, shows="$."))

    def _do(self, step: Step) -> None:
        known = _known_by(step)
        self._record(step).unlink(missing_ok=True)
        for path in step.clears:
            _remove(path)
        start = time.monotonic()
        code = self._execute(step)
        seconds = time.monotonic() - start
        if code != step.expect:
            print(self._advice(step, code), file=sys.stderr, flush=True)
            raise StepFailed(code or 1)
        missing = [str(path) for path in step.makes if not path.exists()]
        if missing:
            print(f"The command ended well but did not make {', '.join(missing)}.", file=sys.stderr, flush=True)
            raise StepFailed(1)
        self.seconds[step.name] = seconds
        text = json.dumps({"known_by": known, "seconds": round(seconds, 2), "command": step.command}) + "\n"
        self._record(step).parent.mkdir(parents=True, exist_ok=True)
        self._record(step).write_text(text)

    def _record(self, step: Step) -> Path:
        return self.folder / "steps" / f"{step.name}.json"

    def _tell_progress(self, steps: Sequence[Step], finished: threading.Event) -> None:
        while not finished.wait(PROGRESS_SECONDS):
            for step in steps:
                if step.name in self._running and (lines := self.log_of(step).read_text("utf-8").splitlines()):
                    print(f"  | {step.name}: {lines[-1].strip()}", flush=True)

    def log_of(self, step: Step) -> Path:
        """Where the output of the step's last run is kept."""
        return self.folder / "logs" / f"{step.name}.log"

    def _execute(self, step: Step) -> int:
        log = self.log_of(step)
        log.parent.mkdir(parents=True, exist_ok=True)
        self._running.add(step.name)
        with log.open("w", buffering=1, encoding="utf-8") as copy:
            process = subprocess.Popen(
                shlex.split(step.command),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                errors="replace",
                env=_environment(step),
            )
            assert process.stdout is not None
            try:
                for line in process.stdout:
                    copy.write(line)
                    if re.search(step.shows, line):
                        print(f"{step.prefix}{line}", end="", flush=True)
            except KeyboardInterrupt:
                process.wait()  # the terminal sent it the same signal; let it save and leave
                raise
            finally:
                self._running.discard(step.name)
            return process.wait()

    def _advice(self, step: Step, code: int) -> str:
        log = self.log_of(step)
        hidden = log.read_text("utf-8").splitlines()[-15:] if step.shows else []
        tail = "".join(f"  | {line}\n" for line in hidden)
        wanted = f" (expected {step.expect})" if step.expect else ""
        return (
            f"{tail}\nStep {self.number}, {step.title!r}, ended with exit code {code}{wanted}.\n"
            f"Everything it printed is in {log}. Try it by hand in the virtual environment (. .venv/bin/activate):\n"
            f"  {_shown(step)}\n"
            "Once that is mended, the same command goes on from here; finished steps are not repeated."
        )


def _known_by(step: Step) -> str:
    """A fingerprint of the command and of what it reads: small files by content, others by size."""
    digest = hashlib.sha256(step.command.encode())
    for path in step.reads:
        size = path.stat().st_size if path.is_file() else -1
        digest.update(f"{path} {size}".encode())
        if 0 <= size < SMALL_FILE:
            digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def _read(record: Path) -> dict[str, Any]:
    try:
        content = json.loads(record.read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _shown(step: Step) -> str:
    settings = "".join(f"{key}={value} " for key, value in (step.environment or {}).items())
    return settings + step.command


def _environment(step: Step) -> dict[str, str]:
    """Ours, with the programs of this virtual environment first, so that `python` and `lm_eval` are those."""
    programs = str(Path(sys.executable).parent)
    path = os.pathsep.join([programs, os.environ.get("PATH", "")])
    return {**os.environ, "PATH": path, "PYTHONUNBUFFERED": "1", **(step.environment or {})}

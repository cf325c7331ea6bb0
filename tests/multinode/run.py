"""A training run on several hosts, started on the first as a user starts it, and what is left of it."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from tests.helpers.tiny_run import write_settings
from tests.multinode.hosts import Hosts, children

ROOT = Path(__file__).resolve().parents[2]
FAULTY = "tests/multinode/faulty/train.py"
LOOK_EVERY = 0.3  # seconds; looking costs time that the runs need
PATIENCE = 300.0  # seconds for anything that must happen: a busy machine is no fault


class NodesRun:
    """`python deepy.py SCRIPT config.yml OPTIONS` on node1. settings: with the hostfile among them."""

    def __init__(
        self, hosts: Hosts, folder: Path, settings: dict[str, Any], script: str = "train.py", *options: str
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.hosts, self.folder, self.save = hosts, folder, Path(settings.get("save", folder))
        config = write_settings(folder / "config.yml", settings)
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "DS_ACCELERATOR": "cpu", "PYTHONPATH": str(ROOT)}
        self.process = hosts["node1"].popen(
            [sys.executable, "deepy.py", script, str(config), *options], ROOT, environment, folder / "output.txt"
        )

    def end(self) -> int:
        """Wait for the launcher; its exit code."""
        wait_for(lambda: self.process.poll() is not None, "the launcher to end", self.output)
        return int(self.process.returncode)

    def send(self, number: signal.Signals) -> None:
        """A signal to the launcher itself."""
        [launcher] = children(self.process.pid)
        os.kill(launcher, number)

    def output(self) -> str:
        return (self.folder / "output.txt").read_text(errors="replace")[-30_000:]

    def events(self, kind: str) -> list[dict[str, Any]]:
        path = self.save / "events.jsonl"
        lines = path.read_text().splitlines() if path.exists() else []
        return [event for line in lines if (event := json.loads(line))["kind"] == kind]

    def left_behind(self, *names: str) -> dict[str, dict[int, str]]:
        """Host -> what still runs there, of these hosts or all; empty when nothing does."""
        chosen = [self.hosts[name] for name in names] or self.hosts.all
        return {host.name: left for host in chosen if (left := host.processes())}


def wait_for(condition: Callable[[], bool], what: str, explain: Callable[[], object] = lambda: "") -> None:
    for _ in waiting(condition, what, explain):
        time.sleep(LOOK_EVERY)


def waiting(condition: Callable[[], bool], what: str, explain: Callable[[], object] = lambda: "") -> Iterator[None]:
    """Yields until the condition holds; AssertionError after PATIENCE."""
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, f"waited {PATIENCE:.0f} s for {what}\n{explain()}"
        yield


def side_by_side(stories: Iterable[Iterator[None]]) -> None:
    """Advance several stories (generators that yield while they wait) in turn, until all have ended."""
    open_ = list(stories)
    while open_:
        for story in list(open_):
            if next(story, open_) is open_:
                open_.remove(story)
        time.sleep(LOOK_EVERY)


def deepy_on(hosts: Hosts, folder: Path, settings: dict[str, Any], *words: str) -> "subprocess.CompletedProcess[str]":
    """A run that is to end by itself soon: its exit code and what it said."""
    run = NodesRun(hosts, folder, settings, *words)
    code = run.end()
    return subprocess.CompletedProcess(run.process.args, code, run.output())

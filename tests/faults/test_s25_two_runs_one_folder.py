"""Two runs, one `save` folder: one gets it, the other is told who has it; a dead run's lock is taken over."""

import json
import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from megatron.checkpointing.lock import LOCK, RunLock
from megatron.errors import CheckpointError
from tests.faults.live_run import LiveRun
from tests.helpers.tiny_run import write_tiny_data

RACES = 5


def contend(save: Path, number: int) -> list[int]:
    """Fork processes that all want the folder at one moment and keep it; the exit codes: 0 had it, 4 was refused."""
    start, end = os.pipe(), os.pipe()
    children = []
    for _ in range(number):
        child = os.fork()
        if child == 0:
            code = 1
            try:
                os.close(start[1])
                os.close(end[1])
                os.read(start[0], 1)
                try:
                    RunLock.take(save)
                    code = 0
                except CheckpointError as error:
                    code = error.exit_code
                (save / f"tried-{os.getpid()}").touch()
                os.read(end[0], 1)  # the winner holds it until all have tried
            finally:
                os._exit(code)
        children.append(child)
    os.close(start[1])
    while len(list(save.glob("tried-*"))) < number:
        time.sleep(0.005)
    os.close(end[1])
    return sorted(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children)


def test_only_one_gets_it(tmp_path: Path, score: Callable[..., None]) -> None:
    held = 0
    for race in range(RACES):
        save = tmp_path / str(race)
        save.mkdir()
        held += contend(save, 5) == [0, 4, 4, 4, 4]
        if race % 2:
            for sign in save.glob("tried-*"):
                sign.unlink()
            assert contend(save, 5) == [0, 4, 4, 4, 4], "the dead winner's lock is taken over by one"
    score("S25", held, RACES, "both write into the same folder")


def test_a_dead_run_and_another_host(tmp_path: Path, score: Callable[..., None]) -> None:
    child = os.fork()
    if child == 0:
        RunLock.take(tmp_path)
        os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(child, 0)
    said: list[str] = []
    lock = RunLock.take(tmp_path, said.append, heartbeat=0.05)
    assert f"process {child}" in said[0] and "is dead" in said[0]
    held = 1
    with pytest.raises(CheckpointError, match=f"in use by the run on host .*, process {os.getpid()}"):
        RunLock.take(tmp_path)
    [file] = (tmp_path / LOCK).iterdir()
    before = file.stat().st_mtime_ns
    deadline = time.monotonic() + 120
    while file.stat().st_mtime_ns == before:
        assert time.monotonic() < deadline, "no heartbeat"
        time.sleep(0.01)
    held += 1
    lock.release()
    assert not list(tmp_path.iterdir())
    foreign = {"host": "elsewhere", "machine": "another", "pid": 1, "since": "then", "heartbeat_seconds": 1.0}
    file.parent.mkdir()
    file.write_text(json.dumps(foreign))
    stop = threading.Event()
    beating = threading.Thread(target=beat, args=(file, stop))
    beating.start()
    with pytest.raises(CheckpointError, match="on host elsewhere"):
        RunLock.take(tmp_path)
    stop.set()
    beating.join()
    held += 1
    RunLock.take(tmp_path, said.append).release()
    held += "elsewhere" in said[-1] and "is dead" in said[-1]
    score("S25", held, 4, "")


def beat(file: Path, stop: threading.Event) -> None:
    while not stop.wait(0.05):
        os.utime(file)


@pytest.mark.multiprocess
@pytest.mark.slow
def test_a_second_training_run_is_refused(tmp_path: Path, score: Callable[..., None]) -> None:
    data = write_tiny_data(tmp_path / "data")
    first = LiveRun(tmp_path / "first", data, num_gpus=1)
    first.wait_for_step(1)
    second = LiveRun(tmp_path / "second", data, save=first.save, num_gpus=1, auto_resume=True)
    code = second.end()
    os.kill(first.process.pid, signal.SIGTERM)
    assert first.end() == 75, first.output()
    assert code == 4 and f"process {first_rank(first)}" in second.output(), second.output()
    score("S25", 1, 1, "")


@pytest.mark.multiprocess
@pytest.mark.slow
def test_a_run_that_lost_its_folder_saves_no_more(tmp_path: Path, score: Callable[..., None]) -> None:
    run = LiveRun(tmp_path, write_tiny_data(tmp_path / "data"), num_gpus=2)
    run.wait_for_step(4)
    taken = tmp_path / "taken"
    taken.mkdir()
    (taken / "x").write_text(json.dumps({"host": "elsewhere", "machine": "another", "pid": 1, "since": "then"}))
    (run.save / LOCK).rename(tmp_path / "lost")
    taken.rename(run.save / LOCK)
    assert run.end() == 4 and "taken over by the run on host elsewhere, process 1" in run.output(), run.output()
    assert [file.name for file in (run.save / LOCK).iterdir()] == ["x"], "the other run's lock is left alone"
    score("S25", 1, 1, "")


def first_rank(run: LiveRun) -> str:
    [start] = run.events("start")
    return str(start["process"])

"""The lock of a `save` folder has one holder, whatever order the lines of several runs come in."""

import os
import shutil
from collections.abc import Callable, Iterable
from itertools import chain, count
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from megatron.checkpointing import lock as lock_module
from megatron.checkpointing.lock import LOCK, RunLock
from megatron.errors import CheckpointError
from tests.helpers.interleaved import Interleaved, Pause

RUNS = 3
TO_ITS_END = 10**6
Bursts = Iterable[tuple[int, int]]
"""(run, lines): that run goes on for so many lines, or to its end."""


@pytest.fixture(scope="module")
def dead(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the lock of a process that has ended."""
    folder = tmp_path_factory.mktemp("dead")
    child = os.fork()
    if child == 0:
        RunLock.take(folder)
        os._exit(0)
    os.waitpid(child, 0)
    return folder


def in_bursts(bursts: Bursts) -> Callable[[list[int]], int]:
    left = chain(bursts, ((number % RUNS, TO_ITS_END) for number in count()))
    now = [0, 0]

    def choose(waiting: list[int]) -> int:
        while now[1] == 0 or now[0] not in waiting:
            now[:] = next(left)
        now[1] -= 1
        return now[0]

    return choose


def contend(save: Path, bursts: Bursts, *, keeps: bool) -> list[str]:
    """What becomes of three runs that want the folder; fails if two have it at one time."""
    held: list[RunLock] = []

    def run(pause: Pause) -> str:
        try:
            lock = RunLock.take(save)
        except CheckpointError as error:
            assert "is in use" in str(error)
            return "refused"
        held.append(lock)
        assert len(held) == 1, "two runs have the folder"
        for _ in range(10):
            pause()
        lock.check()
        if not keeps:
            held.remove(lock)
            lock.release()
        return "held"

    outcomes = Interleaved(lock_module.__file__, in_bursts(bursts)).run([run] * RUNS)
    for lock in held:
        lock.release()
    return outcomes


@pytest.mark.slow
def test_a_dead_lock_goes_to_one_wherever_the_others_are_interrupted(dead: Path) -> None:
    """A run stops anywhere, another comes and goes through, the first goes on a little, a third comes."""
    for lines in range(50):
        for more in (1, 2, 4, 8, 12):
            with TemporaryDirectory() as folder:
                save = Path(shutil.copytree(dead, folder, dirs_exist_ok=True))
                bursts = [(0, lines), (1, TO_ITS_END), (0, more), (2, TO_ITS_END)]
                outcomes = contend(save, bursts, keeps=True)
                assert sorted(map(str, outcomes)) == ["held", "refused", "refused"], (lines, more, outcomes)


@given(
    bursts=st.lists(st.tuples(st.integers(0, RUNS - 1), st.integers(1, 80)), max_size=8),
    keeps=st.booleans(),
    begins_dead=st.booleans(),
)
@settings(max_examples=100, deadline=None)
def test_one_holder_in_any_order(dead: Path, bursts: Bursts, keeps: bool, begins_dead: bool) -> None:
    with TemporaryDirectory() as folder:
        save = Path(folder)
        if begins_dead:
            shutil.copytree(dead, save, dirs_exist_ok=True)
        outcomes = contend(save, bursts, keeps=keeps)
        assert set(outcomes) <= {"held", "refused"}, outcomes
        assert outcomes.count("held") == 1 if keeps else "held" in outcomes
        assert not list(save.iterdir()), "nothing is left"


def test_a_run_that_lost_the_folder_is_told_by_whom(tmp_path: Path) -> None:
    lock = RunLock.take(tmp_path)
    lock.check()
    [own] = (tmp_path / LOCK).iterdir()
    own.unlink()
    other = RunLock.take(tmp_path)
    with pytest.raises(CheckpointError, match=f"taken over by the run on host .*, process {os.getpid()}"):
        lock.check()
    lock.release()
    assert len(list((tmp_path / LOCK).iterdir())) == 1, "the other's is left alone"
    other.release()
    lock.check()  # nobody has it: removed by hand


def test_a_process_that_nobody_has_waited_for_is_dead(tmp_path: Path) -> None:
    child = os.fork()
    if child == 0:
        RunLock.take(tmp_path)
        os._exit(0)
    os.waitid(os.P_PID, child, os.WEXITED | os.WNOWAIT)
    RunLock.take(tmp_path).release()
    os.waitpid(child, 0)


def test_a_lock_of_another_form_is_named(tmp_path: Path) -> None:
    (tmp_path / LOCK).write_text("{}")
    with pytest.raises(CheckpointError, match=f"remove it: rm {tmp_path / LOCK}"):
        RunLock.take(tmp_path)
    assert [entry.name for entry in tmp_path.iterdir()] == [LOCK]

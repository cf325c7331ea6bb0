"""A rank stalls at some file event of a save and everything is killed: all ranks then take the same older step."""

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from megatron.checkpointing.reader import find_checkpoint
from megatron.checkpointing.together import Together
from tests.faults.crash_points import stalls_at
from tests.faults.file_ranks import kill_all, run_ranks, start_ranks
from tests.faults.small_saves import files_of, loaded_step, save_small

RANKS, PLACES = 2, 10


def test_all_ranks_agree(tmp_path: Path, naive: str, score: Callable[..., None]) -> None:
    held = 0
    for stalled in range(RANKS):
        for place in range(PLACES):
            save, talk = tmp_path / f"save{stalled}-{place}", tmp_path / f"talk{stalled}-{place}"
            save.mkdir()
            run_ranks(RANKS, Path(f"{talk}-before"), lambda together, save=save: save_small(save, 1, together))
            stall(RANKS, talk, stalled, place, lambda together, save=save: save_small(save, 2, together))
            chosen = run_ranks(
                RANKS,
                Path(f"{talk}-load"),
                lambda together, save=save: find_checkpoint(save, None, print, together).name,
            )
            held += chosen == ["global_step1"] * RANKS and loaded_step(save) == 1
    score("S2", held, RANKS * PLACES, naive)


def chosen_by(together: Together, save: Path) -> str:
    return find_checkpoint(save, None, lambda text: None, together).name


@pytest.fixture
def naive(tmp_path: Path) -> str:
    """DeepSpeed's order: rank 0 writes its files and `latest`, then meets the others."""

    def save(together: Together) -> None:
        folder = tmp_path / "naive" / "global_step2"
        folder.mkdir(parents=True, exist_ok=True)
        for file in files_of(2, together.rank):
            descriptor = os.open(folder / file.name, os.O_WRONLY | os.O_CREAT)
            os.write(descriptor, b"".join(bytes(part) for part in file.parts()))
            os.close(descriptor)
        if together.rank == 0:
            (folder.parent / "latest").write_text(folder.name)
        together.gather(None)

    latest = tmp_path / "naive" / "latest"
    stall(RANKS, tmp_path / "talk-naive", 1, 0, save, also=latest)
    folder = tmp_path / "naive" / latest.read_text()
    wanted = [all((folder / file.name).exists() for file in files_of(2, rank)) for rank in range(RANKS)]
    assert wanted == [True, False]
    return "`latest` before the barrier: rank 0 loads the new step, rank 1 finds no file"


def stall(
    ranks: int, talk: Path, stalled: int, place: int, action: Callable[[Together], Any], also: Path | None = None
) -> None:
    """Run `action` on all ranks; `stalled` stops for good at its file event `place`; kill all once nothing moves.

    also: a file that the others are known to make meanwhile.
    """

    def on_rank(together: Together) -> None:
        if together.rank == stalled:
            stalls_at(place, talk / "stalled")
        action(together)

    children = start_ranks(ranks, talk, on_rank)
    deadline = time.monotonic() + 300
    awaited = [talk / "stalled", *([also] if also else [])]
    while not all(path.exists() for path in awaited):
        assert time.monotonic() < deadline, "the save ended before the stall"
        time.sleep(0.002)
    settled(talk.parent)
    kill_all(children)


def settled(folder: Path) -> None:
    """Wait until no file below `folder` has appeared for a moment: the other ranks wait for the stalled one."""
    before = -1
    while before != (before := sum(1 for _ in folder.rglob("*"))):
        time.sleep(0.03)

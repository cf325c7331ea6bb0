"""Clocks, time zones and file systems that are late change nothing in the choice of a checkpoint."""

import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from megatron.checkpointing import reader as reader_module
from megatron.checkpointing import waiting
from megatron.checkpointing.reader import find_checkpoint
from megatron.checkpointing.waiting import wait_until
from megatron.errors import CheckpointError
from tests.faults.file_ranks import run_ranks
from tests.faults.small_saves import save_small


def test_the_same_choice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, score: Callable[..., None]) -> None:
    for step in (1, 2):
        save_small(tmp_path, step)
    day = 86_400
    for path in [tmp_path / "global_step2", *(tmp_path / "global_step2").iterdir()]:
        os.utime(path, (time.time() - day, time.time() - day))  # the newest was written with a clock a day behind
    newest_by_clock = max(tmp_path.glob("global_step*"), key=lambda folder: folder.stat().st_mtime)
    assert newest_by_clock.name == "global_step1"
    held = find_checkpoint(tmp_path).name == "global_step2"
    for zone in ("Pacific/Kiritimati", "America/Los_Angeles"):
        monkeypatch.setenv("TZ", zone)
        time.tzset()
        held += find_checkpoint(tmp_path).name == "global_step2"
    (tmp_path / "latest").write_text("global_step1\n")
    held += find_checkpoint(tmp_path).name == "global_step2"
    score("S27", held, 4, "the newest by modification time is the older step")
    monkeypatch.undo()
    time.tzset()


def test_a_late_file_system(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, score: Callable[..., None]) -> None:
    """Rank 1 sees the newest folder half a second late: it waits. Never: an error that names the path."""
    save_small(tmp_path / "run", 1)
    real, visible = reader_module.read_manifest, time.monotonic() + 0.5

    def late(folder: Path) -> dict:
        if folder.name == "global_step1" and time.monotonic() < visible:
            raise CheckpointError("not there yet")
        return real(folder)

    def choose(together: object) -> str:
        if together.rank == 1:  # type: ignore[attr-defined]
            reader_module.read_manifest = late
        return find_checkpoint(tmp_path / "run", together=together).name  # type: ignore[arg-type]

    held = run_ranks(2, tmp_path / "talk", choose) == ["global_step1"] * 2 and time.monotonic() >= visible
    with pytest.raises(CheckpointError, match=r"waited 0 s in vain for /some/folder\. .* shared file system"):
        wait_until(lambda: False, "/some/folder", patience=0.2, interval=0.02)
    assert waiting.PATIENCE >= 60
    score("S27", held + 1, 2, "")

"""Retention deletes our own whole folders and nothing else, whatever lies beside them."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from megatron.checkpointing.folders import step_folders
from megatron.checkpointing.retention import Retention, remove_old
from tests.faults.crash_points import killed_at
from tests.faults.small_saves import loaded_step, save_small

KEEP_TWO = Retention(last=2)


def backup(save: Path) -> Path:
    return Path(shutil.copytree(save / "global_step1", save / "backup_global_step1"))


def suffix(save: Path) -> Path:
    return Path(shutil.copytree(save / "global_step1", save / "global_step1.bak"))


def somebody_elses(save: Path) -> Path:
    folder = save / "global_step0"
    folder.mkdir()
    (folder / "mp_rank_00_model_states.pt").write_bytes(b"x")
    return folder


def with_notes(save: Path) -> Path:
    (save / "global_step1" / "notes.txt").write_text("the good one")
    return save / "global_step1"


def damaged(save: Path) -> Path:
    (save / "global_step1" / "state.json").unlink()
    return save / "global_step1"


def link(save: Path) -> Path:
    target = shutil.copytree(save / "global_step1", save.parent / "elsewhere")
    (save / "global_step0").symlink_to(target)
    return Path(target)


def file(save: Path) -> Path:
    (save / "global_step9").write_text("a file")
    return save / "global_step9"


def upper_case(save: Path) -> Path:
    return Path(shutil.copytree(save / "global_step1", save / "Global_step1"))


CASES = [backup, suffix, somebody_elses, with_notes, damaged, link, file, upper_case]


def test_look_alikes_stay(tmp_path: Path, score: Callable[..., None]) -> None:
    held = 0
    for case in CASES:
        save = tmp_path / case.__name__ / "run"
        for step in (1, 2, 3, 4):
            save_small(save, step)
        spared = case(save)
        before = sorted(path.name for path in spared.iterdir()) if spared.is_dir() else []
        removed = {folder.name for folder in remove_old(Path(f"{save}/"), KEEP_TWO)}
        untouched = spared.exists() and (not before or sorted(path.name for path in spared.iterdir()) == before)
        expected = {"global_step2"} if spared.name == "global_step1" else {"global_step1", "global_step2"}
        held += untouched and removed == expected and loaded_step(save) == 4
    pattern = list((tmp_path / "backup" / "run").glob("*global_step*"))
    assert tmp_path / "backup" / "run" / "backup_global_step1" in pattern
    score("S7", held, len(CASES), "the pattern `*global_step*` matches backup_global_step1")


@pytest.mark.parametrize("number", range(8))
def test_killed_while_deleting(tmp_path: Path, number: int) -> None:
    """Nothing that looks like a checkpoint is left half deleted."""
    for step in (1, 2, 3):
        save_small(tmp_path, step)
    killed_at(number, lambda: remove_old(tmp_path, KEEP_TWO))
    for folder in step_folders(tmp_path):
        assert (folder / "manifest.json").exists() and len(list(folder.iterdir())) == 5
    assert loaded_step(tmp_path) == 3


def test_every_k_and_named_steps_stay(tmp_path: Path) -> None:
    for step in range(1, 11):
        save_small(tmp_path, step)
    remove_old(tmp_path, Retention(last=2, every=4, steps=[1]))
    assert [folder.name for folder in step_folders(tmp_path)] == [f"global_step{step}" for step in (10, 9, 8, 4, 1)]

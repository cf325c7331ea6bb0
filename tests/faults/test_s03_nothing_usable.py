"""`load` is set and nothing can be loaded: an error that says what is there, never a silent start from step 0."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from megatron.checkpointing.reader import find_checkpoint
from megatron.errors import CheckpointError
from tests.faults.small_saves import naive_save, naive_step, save_small


def absent(load: Path) -> str:
    return "does not exist"


def empty(load: Path) -> str:
    load.mkdir()
    return "is empty"


def foreign(load: Path) -> str:
    load.mkdir()
    (load / "model.pt").write_bytes(b"x")
    return "model.pt"


def pointer_to_nothing(load: Path) -> str:
    load.mkdir()
    (load / "latest").write_text("global_step7\n")
    return "contains: latest"


def all_damaged(load: Path) -> str:
    for step in (1, 2):
        (save_small(load, step) / "rng-rank00000.safetensors").write_bytes(b"")
    return "rng-rank00000.safetensors has 0 bytes"


def never_finished(load: Path) -> str:
    folder = save_small(load, 3)
    (folder / "manifest.json").unlink()
    shutil.move(folder, load / ".global_step3.writing")
    return ".global_step3.writing"


CASES = [absent, empty, foreign, pointer_to_nothing, all_damaged, never_finished]


def test_all_cases_stop(tmp_path: Path, score: Callable[..., None]) -> None:
    held = 0
    for case in CASES:
        load = tmp_path / case.__name__
        expected = case(load)
        with pytest.raises(CheckpointError) as caught:
            find_checkpoint(load)
        held += expected in str(caught.value) and str(load) in str(caught.value) and caught.value.exit_code == 4
    save = tmp_path / "naive"
    save.mkdir()
    naive_save(save, 5)
    (save / "latest").unlink()
    assert naive_step(save) is None  # and with None it trains from step 0
    score("S3", held, len(CASES), "no `latest`: trains from step 0 without a word")


def test_a_named_iteration_that_is_absent_or_damaged_stops(tmp_path: Path) -> None:
    (save_small(tmp_path, 2) / "state.json").write_text("{}")
    save_small(tmp_path, 1)
    for iteration in (2, 3):
        with pytest.raises(CheckpointError):
            find_checkpoint(tmp_path, iteration)

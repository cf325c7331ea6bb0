"""Saves in the background: the tensors of their step, one at a time, and no failure that nobody hears of."""

import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from megatron.checkpointing import saver as saver_module
from megatron.checkpointing.reader import CheckpointReader, find_checkpoint
from megatron.checkpointing.retention import Retention
from megatron.checkpointing.saver import CheckpointSaver
from megatron.errors import CheckpointError
from megatron.mpu.parallel_state import ParallelState
from tests.faults.small_saves import NAMES, files_of


def background(save: Path) -> CheckpointSaver:
    return CheckpointSaver(save, ParallelState(), Retention(), background=True)


def slow_disk(monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """Writing begins only when the event is set."""
    gate, real = threading.Event(), saver_module.write_checkpoint

    def wait_and_write(*args: object) -> Path:
        gate.wait(300)
        return real(*args)  # type: ignore[arg-type]

    monkeypatch.setattr(saver_module, "write_checkpoint", wait_and_write)
    return gate


def test_later_weights_are_never_seen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, score: Callable[..., None]
) -> None:
    gate = slow_disk(monkeypatch)
    live = files_of(1)
    saver = background(tmp_path)
    held = 0
    for step in (1, 2, 3):
        expected = {name: value.clone() for name, value in live[1].tensors.items()}
        saver.start({"iteration": step}, live)
        assert not (tmp_path / f"global_step{step}").exists()
        for file in live:
            for value in file.tensors.values():
                value.add_(1)  # training goes on
        gate.set()
        saved = saver.finish()
        assert saved is not None and saved.iteration == step
        gate.clear()
        reader = CheckpointReader(find_checkpoint(tmp_path))
        held += all(torch.equal(reader.weight(name), expected[name]) for name in NAMES)
        assert not any(torch.equal(live[1].tensors[name], expected[name]) for name in NAMES)
    score("A1", held, 3, "without a copy the file holds weights of a later step")


def test_a_second_save_waits_for_the_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gate = slow_disk(monkeypatch)
    saver = background(tmp_path)
    saver.start({"iteration": 1}, files_of(1))
    second = threading.Thread(target=saver.start, args=({"iteration": 2}, files_of(2)))
    second.start()
    second.join(0.2)
    assert second.is_alive()
    gate.set()
    second.join(300)
    saver.finish()
    assert {path.name for path in tmp_path.glob("global_step*")} == {"global_step1", "global_step2"}


def test_a_failure_comes_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, score: Callable[..., None]) -> None:
    def full(*args: object) -> Path:
        raise CheckpointError("no space")

    monkeypatch.setattr(saver_module, "write_checkpoint", full)
    saver = background(tmp_path)
    saver.start({"iteration": 1}, files_of(1))
    deadline = time.monotonic() + 300
    while not saver.failed():
        assert time.monotonic() < deadline
        time.sleep(0.01)
    for ask in (saver.finish, lambda: saver.start({"iteration": 2}, files_of(2))):
        with pytest.raises(CheckpointError, match="no space"):
            ask()
    score("A1", 1, 1, "")

"""Copies of stretches, in the kernel and by hand; drafts that leave nothing behind; disks without room."""

import errno
import os
from pathlib import Path

import pytest

from megatron.data import file_copies
from megatron.data.file_copies import copy_stretch, copy_whole, draft_of, make_room
from megatron.errors import DataError


def no_kernel_copy(*args: object) -> int:
    raise OSError(errno.EXDEV, "another file system")


@pytest.mark.parametrize("by_hand", [False, True])
def test_a_stretch(tmp_path: Path, by_hand: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if by_hand:
        monkeypatch.setattr(os, "copy_file_range", no_kernel_copy)
    monkeypatch.setattr(file_copies, "_SPAN", 7)
    monkeypatch.setattr(file_copies, "BLOCK", 5)
    data = bytes(range(100))
    (tmp_path / "source").write_bytes(data)
    steps: list[int] = []
    with (tmp_path / "target").open("wb") as target:
        copy_stretch(tmp_path / "source", 13, 40, target.fileno(), 3, steps.append)
    assert (tmp_path / "target").read_bytes() == bytes(3) + data[13:53]
    assert sum(steps) == 40 and len(steps) > 5
    with (tmp_path / "target").open("wb") as target, pytest.raises(DataError, match="ends at byte 100, expected 111"):
        copy_stretch(tmp_path / "source", 90, 21, target.fileno(), 0, steps.append)


def test_drafts(tmp_path: Path) -> None:
    (tmp_path / "old").write_bytes(b"old")
    with pytest.raises(KeyError), draft_of(tmp_path / "old") as file:
        file.write(b"new")
        raise KeyError("stopped")
    assert [path.name for path in tmp_path.iterdir()] == ["old"] and (tmp_path / "old").read_bytes() == b"old"
    copy_whole(tmp_path / "old", tmp_path / "copy")
    assert (tmp_path / "copy").read_bytes() == b"old"
    with pytest.raises(DataError, match="cannot write it"), draft_of(tmp_path / "none" / "x"):
        pass


def test_room(tmp_path: Path) -> None:
    make_room(tmp_path / "a" / "b", 1)
    assert (tmp_path / "a" / "b").is_dir()
    with pytest.raises(DataError, match=r"needs 1000000000000000000 bytes, only \d+ are free"):
        make_room(tmp_path, 10**18)
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match="cannot write there"):
        make_room(tmp_path / "file" / "x", 1)

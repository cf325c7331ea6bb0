"""Part files of a data set in the making belong to one process; a finished data set is never opened for writing."""

from pathlib import Path

import numpy as np
import pytest

from megatron.data import part_files
from megatron.data.part_files import PartFiles


def test_a_run_that_waited_while_the_first_finished_leaves_its_data_set_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prefix = tmp_path / "text"
    first = PartFiles(prefix, np.dtype("<u2"))
    first.add(np.arange(10), np.array([4, 6]))
    opened = part_files._open

    def open_late(path: Path) -> object:
        file = opened(path)
        monkeypatch.undo()
        first.finish()
        return file

    monkeypatch.setattr(part_files, "_open", open_late)
    second = PartFiles(prefix, np.dtype("<u2"))
    assert np.fromfile(f"{prefix}.bin", "<u2").tolist() == list(range(10))
    second.add(np.arange(3), np.array([3]))
    second.finish()
    assert np.fromfile(f"{prefix}.bin", "<u2").tolist() == [0, 1, 2]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["text.bin", "text.idx"]


def test_a_run_that_starts_while_the_first_gives_out_names_keeps_its_own_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prefix = tmp_path / "text"
    first = PartFiles(prefix, np.dtype("<u2"))
    first.add(np.arange(10), np.array([4, 6]))
    started: list[PartFiles] = []
    replace = Path.replace

    def replace_and_start(path: Path, target: str | Path) -> Path:
        done = replace(path, target)
        if not started:
            started.append(PartFiles(prefix, np.dtype("<u2")))
        return done

    monkeypatch.setattr(Path, "replace", replace_and_start)
    first.finish()
    [second] = started
    second.add(np.arange(3), np.array([3]))
    second.finish()
    assert np.fromfile(f"{prefix}.bin", "<u2").tolist() == [0, 1, 2]

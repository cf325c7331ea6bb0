"""The cache of index arrays: found again, built once, never half there, never another's."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from megatron.data.index_cache import MANIFEST, ArrayWriter, IndexCache

WANTED = {"kind": "test", "size": 5}


class Builder:
    """Counts how often it is asked."""

    def __init__(self, size: int = 5) -> None:
        self.size, self.calls = size, 0

    def __call__(self, writer: ArrayWriter) -> None:
        self.calls += 1
        writer.save("plain", np.arange(self.size, dtype=np.int32))
        blocks = (np.full((2, 2), k) for k in range(3))
        writer.save_blocks("blocks", np.dtype(np.int64), (6, 2), blocks)


def check(arrays: dict[str, np.ndarray]) -> None:
    assert set(arrays) == {"plain", "blocks"}
    assert arrays["plain"].dtype == np.int32
    assert arrays["plain"].tolist() == [0, 1, 2, 3, 4]
    assert arrays["blocks"].tolist() == [[k // 2] * 2 for k in range(6)]


def entries(folder: Path) -> list[Path]:
    return [path for path in folder.iterdir() if path.is_dir()]


def test_built_once_and_found_again(tmp_path: Path) -> None:
    said: list[str] = []
    build, cache = Builder(), IndexCache(tmp_path / "new" / "folder", said.append)
    for _ in range(3):
        check(cache.arrays("set", WANTED, build))
    assert build.calls == 1
    assert len(said) == 1
    assert "index of set: none in" in said[0]
    assert not cache.arrays("set", WANTED, build)["plain"].flags.writeable


def test_other_options_are_another_entry_and_the_line_says_which(tmp_path: Path) -> None:
    said: list[str] = []
    cache = IndexCache(tmp_path, said.append)
    cache.arrays("set", {**WANTED, "split": [0, 5], "data": "a"}, Builder())
    cache.arrays("set", {**WANTED, "split": [0, 4], "data": "a"}, Builder())
    cache.arrays("set", {**WANTED, "split": [0, 4], "data": "b"}, Builder())
    assert "made for other split" in said[1]
    assert "made for other data" in said[2]
    assert len(entries(tmp_path)) == 3


@pytest.mark.parametrize("damage", ["cut", "flip", "gone", "no manifest", "bad manifest"])
def test_a_damaged_entry_is_noticed_and_built_again(tmp_path: Path, damage: str) -> None:
    said: list[str] = []
    build, cache = Builder(), IndexCache(tmp_path, said.append)
    cache.arrays("set", WANTED, build)
    (entry,) = entries(tmp_path)
    path = entry / ("plain.npy" if "manifest" not in damage else MANIFEST)
    data = bytearray(path.read_bytes())
    if damage == "cut":
        path.write_bytes(data[:-3])
    elif damage == "flip":
        data[-1] ^= 1
        path.write_bytes(data)
    elif damage == "bad manifest":
        path.write_text("{")
    else:
        path.unlink()
    check(cache.arrays("set", WANTED, build))
    check(cache.arrays("set", WANTED, build))
    assert build.calls == 2
    assert any("built again" in line for line in said)


def test_a_builder_that_fails_leaves_nothing(tmp_path: Path) -> None:
    def build(writer: ArrayWriter) -> None:
        writer.save("plain", np.arange(3))
        raise MemoryError

    with pytest.raises(MemoryError):
        IndexCache(tmp_path, print).arrays("set", WANTED, build)
    assert entries(tmp_path) == []


def test_a_folder_that_cannot_be_written_is_done_without(tmp_path: Path) -> None:
    said: list[str] = []
    (tmp_path / "file").write_text("")
    check(IndexCache(tmp_path / "file" / "cache", said.append).arrays("set", WANTED, Builder()))
    assert "built in memory" in said[0]
    assert "data_cache_path" in said[0]
    check(IndexCache(None, said.append).arrays("set", WANTED, Builder()))


PROGRAM = """
import os, sys, time
from pathlib import Path
import numpy as np
from megatron.data.index_cache import IndexCache
folder, calls, slow = Path(sys.argv[1]), Path(sys.argv[2]), float(sys.argv[3])
def build(writer):
    (calls / str(os.getpid())).write_text("")
    writer.save("plain", np.arange(100_000))
    time.sleep(slow)
    writer.save("more", np.arange(3))
print("ready", flush=True)
sys.stdin.readline()
arrays = IndexCache(folder, lambda text: None).arrays("set", {"a": 1}, build)
assert arrays["plain"].sum() == 4999950000 and arrays["more"].tolist() == [0, 1, 2]
"""


def start(*arguments: Any) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", PROGRAM, *map(str, arguments)]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    process = subprocess.Popen(command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stdout.readline() == "ready\n"
    return process


def go(process: subprocess.Popen[str]) -> None:
    assert process.stdin is not None
    process.stdin.write("go\n")
    process.stdin.flush()


@pytest.mark.multiprocess
def test_eight_builders_at_once_build_once(tmp_path: Path) -> None:
    calls = tmp_path / "calls"
    calls.mkdir()
    processes = [start(tmp_path / "cache", calls, 0.2) for _ in range(8)]
    for process in processes:
        go(process)
    assert [process.wait(300) for process in processes] == [0] * 8
    assert len(list(calls.iterdir())) == 1
    assert [path.suffix for path in entries(tmp_path / "cache")] == [""]


@pytest.mark.multiprocess
def test_a_killed_builder_leaves_nothing_half_done(tmp_path: Path) -> None:
    calls = tmp_path / "calls"
    calls.mkdir()
    victim = start(tmp_path / "cache", calls, 600)
    go(victim)
    deadline = time.monotonic() + 300
    while not list((tmp_path / "cache").glob("*.tmp/plain.npy")):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    heir = start(tmp_path / "cache", calls, 0)
    go(heir)  # waits for the lock, which its holder takes to the grave
    victim.send_signal(signal.SIGKILL)
    victim.wait()
    assert heir.wait(300) == 0
    (entry,) = entries(tmp_path / "cache")
    assert json.loads((entry / MANIFEST).read_text())["name"] == "set"


def test_builders_without_locks_do_not_disturb_each_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Some network file systems know no locks: the second to finish finds the first one's entry and takes it."""

    def no_locks(*_: Any) -> None:
        raise OSError("no locks here")

    monkeypatch.setattr("fcntl.flock", no_locks)
    cache, inner = IndexCache(tmp_path, lambda text: None), Builder()

    def build(writer: ArrayWriter) -> None:
        check(IndexCache(tmp_path, lambda text: None).arrays("set", WANTED, inner))
        Builder()(writer)

    check(cache.arrays("set", WANTED, build))
    assert inner.calls == 1
    assert [path.suffix for path in entries(tmp_path)] == [""]

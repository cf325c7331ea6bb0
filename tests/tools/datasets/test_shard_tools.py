"""shard_memmap.py, unshard_memmap.py, checksum_shards.py: there and back, checked, and damage named."""

import json
import os
from pathlib import Path

import numpy as np
import pytest

from megatron.data.indexed_dataset import IndexedDataset, IndexedDatasetWriter
from tests.helpers.shared import shared_folder
from tests.tools.datasets.running import refused, run_tool

UNSHARD = "tools/datasets/unshard_memmap.py"
NAMES = [f"set-0000{number}-of-00002.bin" for number in range(3)]


@pytest.fixture
def shards(tmp_path: Path) -> Path:
    """Folder `shards` with a data set of 3 shards, its index, and their hashes; the joined set beside it."""
    with IndexedDatasetWriter(tmp_path / "set", dtype="uint16") as writer:
        for number in range(20):
            writer.add_document(np.arange(number * 3) % 1000)
    size = (tmp_path / "set.bin").stat().st_size // 3 + 1
    done = run_tool(
        "tools/datasets/shard_memmap.py",
        "--input_file",
        tmp_path / "set.bin",
        "--output_dir",
        "shards",
        "--shard_size",
        size,
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    assert "in 3 shards" in done.stdout
    return tmp_path / "shards"


def test_there_and_back(shards: Path, tmp_path: Path) -> None:
    assert sorted(path.name for path in shards.iterdir()) == [*NAMES, "set.idx", "shard_hashes.txt"]
    in_place = IndexedDataset(shards / "set")
    assert in_place.document(19).tolist() == IndexedDataset(tmp_path / "set").document(19).tolist()
    for flags in ([], ["--hashes", shards / "shard_hashes.txt", "--workers", 2]):
        done = run_tool(
            UNSHARD, "--input_file", shards / NAMES[0], "--num_shards", 3, "--output_dir", "joined", *flags,
            cwd=tmp_path,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        for ending in ("bin", "idx"):
            assert (tmp_path / "joined" / f"set.{ending}").read_bytes() == (tmp_path / f"set.{ending}").read_bytes()
        assert sorted(path.name for path in (tmp_path / "joined").iterdir()) == ["set.bin", "set.idx"]
    assert "every sha256 as in the list" in done.stdout


def test_joined_beside_the_shards_is_used_then(shards: Path) -> None:
    assert run_tool(UNSHARD, "--input_file", shards / NAMES[1]).returncode == 0
    assert [path.name for path in IndexedDataset(shards / "set").token_file.paths] == ["set.bin"]


def test_checksums(shards: Path) -> None:
    done = run_tool("tools/datasets/checksum_shards.py", cwd=shards)
    assert done.returncode == 0 and "all 4 files are as in" in done.stdout
    (shards / "sums").write_text("".join(f"{h}  {n}\n" for n, h in pairs(shards / "shard_hashes.txt")))
    assert (
        run_tool("tools/datasets/checksum_shards.py", "--input_dir", shards, "--hashes", shards / "sums").returncode
        == 0
    )
    with (shards / NAMES[1]).open("r+b") as file:
        file.seek(5)
        file.write(b"\xff")
    done = run_tool("tools/datasets/checksum_shards.py", "--input_dir", shards)
    refused(done, 3, "1 of 4 files", NAMES[1], "Download them again")
    assert f"{NAMES[2]}: OK" in done.stdout and "expected" in done.stdout
    done = run_tool("tools/datasets/checksum_shards.py", "--input_dir", shards, "--write", "--hashes", shards / "new")
    assert done.returncode == 0
    assert dict(pairs(shards / "new")).keys() == dict(pairs(shards / "shard_hashes.txt")).keys()
    assert dict(pairs(shards / "new"))[NAMES[1]] != dict(pairs(shards / "shard_hashes.txt"))[NAMES[1]]


def test_two_swapped_shards_are_noticed_by_their_hashes(shards: Path) -> None:
    (shards / NAMES[0]).rename(shards / "aside")
    (shards / NAMES[1]).rename(shards / NAMES[0])
    (shards / "aside").rename(shards / NAMES[1])
    refused(run_tool("tools/datasets/checksum_shards.py", "--input_dir", shards), 3, "2 of 4 files", NAMES[0])
    flags = ["--input_file", shards / NAMES[0], "--hashes", shards / "shard_hashes.txt", "--output_dir", shards / "out"]
    refused(run_tool("tools/datasets/unshard_memmap.py", *flags), 3, "sha256", "expected")
    assert list((shards / "out").iterdir()) == []


def test_damage_is_refused_before_anything_is_written(shards: Path, tmp_path: Path) -> None:
    out = ["--output_dir", tmp_path / "out"]
    refused(
        run_tool(UNSHARD, "--input_file", shards / NAMES[0], "--num_shards", 2, *out),
        2,
        "--num_shards: 2",
    )
    refused(
        run_tool(UNSHARD, "--input_file", shards / "set.idx", *out),
        2,
        "expected the first shard",
    )
    refused(
        run_tool("tools/datasets/unshard_memmap.py", "--input_file", tmp_path / "x-00000-of-00001.bin", *out),
        3,
        "no shards there",
    )
    length = (shards / NAMES[2]).stat().st_size
    os.truncate(shards / NAMES[2], length - 1)
    refused(
        run_tool(UNSHARD, "--input_file", shards / NAMES[0], *out),
        3,
        "expected",
        "found",
        "set.idx",
    )
    (shards / NAMES[2]).unlink()
    refused(run_tool(UNSHARD, "--input_file", shards / NAMES[0], *out), 3, f"missing: {NAMES[2]}")
    refused(run_tool("tools/datasets/checksum_shards.py", "--input_dir", shards), 3, "MISSING")
    assert not (tmp_path / "out").exists()


def test_bad_lists_and_flags(shards: Path, tmp_path: Path) -> None:
    (tmp_path / "list").write_text("a.bin 123\n")
    refused(
        run_tool("tools/datasets/checksum_shards.py", "--hashes", tmp_path / "list"),
        3,
        f"{tmp_path / 'list'}:1",
        "64 hex digits",
    )
    (tmp_path / "list").write_text("other.bin " + "0" * 64 + "\n")
    flags = ["--input_file", shards / NAMES[0], "--hashes", tmp_path / "list"]
    refused(run_tool("tools/datasets/unshard_memmap.py", *flags), 3, f"{NAMES[0]} is not in the list")
    refused(run_tool("tools/datasets/checksum_shards.py", "--hashes", tmp_path / "nowhere"), 3, "cannot read the list")
    refused(
        run_tool("tools/datasets/checksum_shards.py", "--input_dir", tmp_path / "nowhere", "--write"),
        3,
        "no .bin or .idx",
    )
    into = ["--input_file", tmp_path / "set.bin", "--output_dir", shards, "--shard_size"]
    refused(run_tool("tools/datasets/shard_memmap.py", *into, 5), 3, "shards of another cut")
    refused(run_tool("tools/datasets/shard_memmap.py", *into, 0), 2, "--shard_size")
    refused(
        run_tool("tools/datasets/shard_memmap.py", "--input_file", "nowhere.bin", "--output_dir", shards),
        3,
        "no such file",
    )


def test_goldens(tmp_path: Path) -> None:
    folder = shared_folder("reference", "goldens_data", "shards")
    expect = json.loads((folder.parent / "expect.json").read_text())["shards"]
    done = run_tool(
        UNSHARD, "--input_file", folder / expect["files"][0], "--num_shards", 3, "--output_dir", tmp_path,
        "--hashes", folder / "shard_hashes.txt",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert run_tool("tools/datasets/checksum_shards.py", "--input_dir", folder).returncode == 0
    joined = tmp_path / "a_text_document.bin"
    assert joined.read_bytes() == (folder.parent / "idxmap" / joined.name).read_bytes()
    flags = ["--input_file", joined, "--output_dir", tmp_path / "s", "--shard_size", expect["shard_size"]]
    assert run_tool("tools/datasets/shard_memmap.py", *flags).returncode == 0
    for name in expect["files"]:
        assert (tmp_path / "s" / name).read_bytes() == (folder / name).read_bytes()
    assert (tmp_path / "s" / "shard_hashes.txt").read_text().startswith((folder / "shard_hashes.txt").read_text())


def pairs(path: Path) -> list[tuple[str, str]]:
    return [(line.split()[0], line.split()[1]) for line in path.read_text().splitlines()]

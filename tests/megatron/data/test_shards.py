"""Cutting and joining give the same bytes back for any sizes; a failed join leaves nothing."""

import hashlib
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from megatron.data.shards import join_shards, split_file
from megatron.errors import DataError


@settings(max_examples=40)
@given(data=st.binary(max_size=60), size=st.integers(1, 70), checked=st.booleans())
def test_there_and_back(tmp_path_factory: pytest.TempPathFactory, data: bytes, size: int, checked: bool) -> None:
    folder = tmp_path_factory.mktemp("shards")
    (folder / "set.bin").write_bytes(data)
    shards = split_file(folder / "set.bin", folder / "cut", size)
    assert [path.stat().st_size for path in shards[:-1]] == [size] * (len(shards) - 1)
    assert len(shards) == max(1, -(-len(data) // size))  # no empty shard at the end
    hashes = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in shards}
    steps: list[int] = []
    joined = join_shards(
        folder / "cut" / "set", folder / "joined", expected_hashes=hashes if checked else None, progress=steps.append
    )
    assert joined.read_bytes() == data and sum(steps) == len(data)


def test_a_wrong_hash_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "set.bin").write_bytes(bytes(10))
    shards = split_file(tmp_path / "set.bin", tmp_path / "cut", 4)
    with pytest.raises(DataError, match=rf"{shards[0]}: sha256 .*, expected 00"):
        join_shards(tmp_path / "cut" / "set", tmp_path / "out", expected_hashes={p.name: "00" for p in shards})
    assert list((tmp_path / "out").iterdir()) == []


def test_too_many_shards(tmp_path: Path) -> None:
    with (tmp_path / "set.bin").open("wb") as file:
        file.truncate(100_001)
    with pytest.raises(DataError, match="more than names have numbers"):
        split_file(tmp_path / "set.bin", tmp_path / "cut", 1)

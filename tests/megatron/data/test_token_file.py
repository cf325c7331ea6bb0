"""Shards are read as one file, whatever their edges cut; gaps, doubles and odd sizes are refused by name."""

import json
import os
import pickle
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from megatron.data.indexed_dataset import IndexedDataset, IndexedDatasetWriter
from megatron.data.token_file import TokenFile, find_shards, open_tokens, prefix_of_shard, shard_path
from megatron.errors import DataError
from tests.helpers.shared import shared_folder


def write_shards(prefix: Path, data: bytes, size: int) -> list[Path]:
    last = max(0, -(-len(data) // size) - 1)
    paths = [shard_path(prefix, number, last) for number in range(last + 1)]
    for number, path in enumerate(paths):
        path.write_bytes(data[number * size : (number + 1) * size])
    return paths


@settings(max_examples=50)
@given(data=st.binary(max_size=40), size=st.integers(1, 45), ends=st.tuples(st.integers(0, 40), st.integers(0, 40)))
def test_any_stretch_of_any_shards(tmp_path: Path, data: bytes, size: int, ends: tuple[int, int]) -> None:
    for path in tmp_path.iterdir():
        path.unlink()
    paths = write_shards(tmp_path / "set", data, size)
    assert find_shards(tmp_path / "set") == paths
    tokens = TokenFile(paths)
    assert tokens.num_bytes == len(data)
    start, end = sorted(min(end, len(data)) for end in ends)
    assert tokens.read(end - start, start) == data[start:end]
    buffer = bytearray(end - start)
    tokens.read_into(memoryview(buffer), start)
    assert buffer == data[start:end]
    for offset in range(len(data)):
        number, within = tokens.locate(offset)
        assert paths[number].read_bytes()[within] == data[offset]


def test_a_data_set_in_shards_equals_the_joined_one(tmp_path: Path) -> None:
    documents = [list(range(n)) for n in (5, 0, 9, 4)]
    with IndexedDatasetWriter(tmp_path / "set", dtype="int32") as writer:
        for ids in documents:
            writer.add_document(ids)
    joined = IndexedDataset(tmp_path / "set")
    prints = joined.fingerprints()
    write_shards(tmp_path / "set", (tmp_path / "set.bin").read_bytes(), 7)  # every edge lies inside a token
    (tmp_path / "set.bin").unlink()
    dataset = pickle.loads(pickle.dumps(IndexedDataset(tmp_path / "set")))
    assert [dataset.document(number).tolist() for number in range(4)] == documents
    assert dataset.fingerprints() == prints
    assert dataset.place_of_token(3) == f"{shard_path(tmp_path / 'set', 1, 10)}, byte 5"
    dataset.warm_up()


def test_the_joined_file_comes_first(tmp_path: Path) -> None:
    write_shards(tmp_path / "set", b"shards", 4)
    (tmp_path / "set.bin").write_bytes(b"joined")
    tokens = open_tokens(tmp_path / "set")
    assert tokens is not None and tokens.read(6, 0) == b"joined"
    assert open_tokens(tmp_path / "other") is None


def test_what_is_no_row_is_refused(tmp_path: Path) -> None:
    paths = write_shards(tmp_path / "set", bytes(range(10)), 4)
    assert [path.name for path in paths] == [f"set-0000{number}-of-00002.bin" for number in range(3)]
    paths[1].rename(tmp_path / "aside")
    with pytest.raises(DataError, match=r"2 of 3 shards.*missing: set-00001-of-00002\.bin"):
        find_shards(tmp_path / "set")
    (tmp_path / "aside").rename(paths[1])
    shard_path(tmp_path / "set", 0, 3).touch()
    with pytest.raises(DataError, match=r"3 of -of-00002 and 1 of -of-00003"):
        find_shards(tmp_path / "set")
    shard_path(tmp_path / "set", 0, 3).unlink()
    shard_path(tmp_path / "set", 3, 2).touch()
    with pytest.raises(DataError, match="numbers beyond"):
        find_shards(tmp_path / "set")


@pytest.mark.parametrize("cut", [0, 1])
def test_a_cut_shard_is_named(tmp_path: Path, cut: int) -> None:
    paths = write_shards(tmp_path / "set", bytes(range(12)), 4)
    os.truncate(paths[cut], 3)
    with pytest.raises(DataError, match=rf"set-0000{cut}-of-00002\.bin: 3 bytes, expected 4:"):
        find_shards(tmp_path / "set")


def test_swapped_first_and_last_are_noticed(tmp_path: Path) -> None:
    paths = write_shards(tmp_path / "set", bytes(range(6)), 4)
    paths[0].rename(tmp_path / "aside")
    paths[1].rename(paths[0])
    (tmp_path / "aside").rename(paths[1])
    with pytest.raises(DataError, match=r"00001-of-00001\.bin: 4 bytes, expected 2: .*two have changed names"):
        find_shards(tmp_path / "set")


def test_a_shard_shortened_while_open_is_named(tmp_path: Path) -> None:
    paths = write_shards(tmp_path / "set", bytes(range(12)), 4)
    tokens = TokenFile(paths)
    os.truncate(paths[1], 1)
    assert tokens.read(5, 0) == bytes(range(5))
    with pytest.raises(DataError, match=r"00001-of-00002\.bin: expected 2 more bytes at byte 1, found 0.*had 4 bytes"):
        tokens.read(7, 0)


def test_beyond_two_to_the_32_without_memory_or_disk(tmp_path: Path) -> None:
    """Three sparse shards of 2.5 GB hold 2^32 bytes and more."""
    size = 2_500_000_001  # odd: every edge lies inside a uint16 token
    paths = [shard_path(tmp_path / "huge", number, 2) for number in range(3)]
    for path in paths:
        with path.open("wb") as file:
            file.truncate(size)
    tokens = TokenFile(paths)
    for place in ((1 << 31) + 5, size - 1, (1 << 32) + 7, 2 * size - 1):
        number, within = tokens.locate(place)
        with paths[number].open("r+b") as file:
            file.seek(within)
            file.write(b"x")
        assert tokens.read(3, place - 1) == b"\0x\0"
    assert tokens.num_bytes == 3 * size


def test_names() -> None:
    shard = Path("data/pile_0.87-x-00000-of-00082.bin")
    assert prefix_of_shard(shard) == Path("data/pile_0.87-x")
    assert shard_path(Path("data/pile_0.87-x"), 0, 82) == shard
    assert prefix_of_shard(Path("data/pile.bin")) is None


def test_goldens_in_place() -> None:
    folder = shared_folder("reference", "goldens_data")
    expect = json.loads((folder / "expect.json").read_text())["shards"]
    shards = IndexedDataset(folder / "shards" / "a_text_document")
    joined = IndexedDataset(folder / "idxmap" / "a_text_document")
    assert list(shards.token_file.sizes) == expect["sizes"]
    assert [path.name for path in shards.token_file.paths] == expect["files"]
    assert any(size % shards.dtype.itemsize for size in expect["sizes"])  # an edge inside a token
    assert shards.fingerprints() == joined.fingerprints()
    for number in range(joined.num_documents):
        assert np.array_equal(shards.document(number), joined.document(number))

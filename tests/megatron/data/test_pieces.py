"""Stretches of a file into rows of a table, the file whole or in shards."""

from pathlib import Path

import numpy as np
import pytest

from megatron.data.indexed_dataset import IndexedDataset, IndexedDatasetWriter
from megatron.data.pieces import Pieces, read
from megatron.errors import DataError


def pieces(*rows: tuple[int, int, int, int], of: int = 3) -> Pieces:
    return Pieces(of, *np.array(rows, np.int64).T)


def write(prefix: Path, shard: int | None = None) -> IndexedDataset:
    with IndexedDatasetWriter(prefix, vocab_size=100) as writer:
        writer.add_document(range(50))
    data = Path(f"{prefix}.bin").read_bytes()
    if shard is not None:
        parts = [data[start : start + shard] for start in range(0, len(data), shard)]
        for number, part in enumerate(parts):
            prefix.with_name(f"{prefix.name}-{number:05d}-of-{len(parts) - 1:05d}.bin").write_bytes(part)
        Path(f"{prefix}.bin").unlink()
    return IndexedDataset(prefix)


@pytest.mark.parametrize("shard", [None, 7, 33])
def test_pieces_land_where_they_belong(tmp_path: Path, shard: int | None) -> None:
    dataset = write(tmp_path / "set", shard)
    asked = pieces((0, 0, 10, 4), (2, 0, 48, 2), (2, 2, 0, 1))
    assert read(dataset, asked, 4, 9).tolist() == [[10, 11, 12, 13], [9, 9, 9, 9], [48, 49, 0, 9]]
    assert asked.covered().tolist() == [4, 0, 3]
    assert (asked.token_at(0, 3), asked.token_at(2, 1), asked.token_at(2, 2)) == (13, 49, 0)


def test_a_file_shortened_under_the_reader_is_named(tmp_path: Path) -> None:
    dataset = write(tmp_path / "set")
    with Path(f"{tmp_path / 'set'}.bin").open("r+b") as file:
        file.truncate(60)
    assert read(dataset, pieces((0, 0, 10, 4), of=1), 4, 0).tolist() == [[10, 11, 12, 13]]
    with pytest.raises(DataError, match=r"set\.bin: expected .* found .* shortened"):
        read(dataset, pieces((0, 0, 28, 4), of=1), 4, 0)

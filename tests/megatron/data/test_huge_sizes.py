"""Beyond 2^31 and 2^32 tokens, samples and bytes, with files that use no disk and arrays of a few kilobytes."""

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from megatron.data import kernels
from megatron.data.document_rows import DocumentRows
from megatron.data.index_cache import IndexCache
from megatron.data.index_file import write_index
from megatron.data.indexed_dataset import IndexedDataset
from megatron.data.make_parts import PartOptions, make_part
from megatron.data.neox_order import sample_starts, samples_in
from megatron.data.order import SampleOrder
from megatron.data.pieces import read
from megatron.data.samples import SampleStream
from megatron.data.source import Part
from megatron.errors import DataError
from tests.megatron.data.neox_goldens import helper

__all__ = ["helper"]

MEBI = 1 << 20
EDGES = [2**31, 2**32]


@pytest.fixture(params=["uint16", "int32"])
def dataset(request: pytest.FixtureRequest, tmp_path: Path) -> IndexedDataset:
    """4,100 documents of 2^20 tokens: 2^32 tokens and some, up to 17 GB of holes. Token t is 0, but for `plant`."""
    sizes = np.full(4100, MEBI, np.int32)
    kind = np.dtype(request.param).newbyteorder("<")
    with (tmp_path / "huge.idx").open("wb") as file:
        write_index(file, kind, sizes, None)
    with (tmp_path / "huge.bin").open("wb") as file:
        file.truncate(4100 * MEBI * kind.itemsize)
    found = IndexedDataset(tmp_path / "huge")
    assert os.stat(tmp_path / "huge.bin").st_blocks < 100
    return found


@pytest.fixture
def plant(dataset: IndexedDataset) -> Callable[[int, list[int]], None]:
    """Write ids at a token of the file."""

    def write(token: int, ids: list[int]) -> None:
        with Path(f"{dataset.prefix}.bin").open("r+b") as file:
            file.seek(token * dataset.dtype.itemsize)
            file.write(np.array(ids, dataset.dtype).tobytes())

    return write


@pytest.mark.parametrize("edge", EDGES)
@pytest.mark.parametrize("per_token", [1, 2, 4])
def test_tokens_and_bytes(
    dataset: IndexedDataset, plant: Callable[[int, list[int]], None], edge: int, per_token: int
) -> None:
    """Around tokens 2^31 and 2^32, and around the bytes of these numbers."""
    token = edge // per_token
    plant(token - 2, [11, 12, 13, 14])
    stream = SampleStream(dataset, 0, 4100, 2)
    assert stream.sample(token // 2 - 1).tolist() == [11, 12, 13]
    assert stream.sample(token // 2).tolist() == [13, 14, 0]
    assert dataset.tokens(token - 1, 2).tolist() == [12, 13]
    number = token // MEBI
    assert dataset.document_spans(np.array([number - 1, number]))[0].tolist() == [token - MEBI, token]
    part = Part(stream, SampleOrder(len(stream), 1), None)
    plant(token, [999])
    with pytest.raises(DataError, match=rf"byte {token * dataset.dtype.itemsize}: id 999 at token {token} "):
        part.read(np.array([token // 2]), 999)


def test_samples_beyond_two_to_the_32(dataset: IndexedDataset) -> None:
    """Samples of one token: 2^32 and some; the order is computed, so none is stored."""
    stream = SampleStream(dataset, 0, 4100, 1)
    assert len(stream) == 4100 * MEBI - 1 > 2**32
    order = SampleOrder(len(stream), 1)
    found = order.samples_at(np.array([0, 2**31, 2**32, len(stream) - 1, len(stream), 7 * len(stream)]))
    assert found.min() >= 0
    assert found.max() < len(stream)
    # A bijection: neighbours of the edges are all different.
    near = np.concatenate([np.arange(edge - 500, edge + 500) for edge in EDGES])
    assert len(np.unique(order.samples_at(near))) == len(near)
    assert stream.pieces(np.array([2**32])).starts.tolist() == [2**32]


@pytest.mark.parametrize("edge", EDGES)
def test_neox_samples_around_the_edges(helper: str, dataset: IndexedDataset, edge: int) -> None:
    """sample_idx across tokens 2^31 and 2^32 of the joined documents, by both builders and by plain division."""
    documents = np.random.RandomState(1).permutation(4100).astype(np.int32)
    length = 2048
    first = (edge - 50 * length) // length
    rows = np.empty((100, 2), np.int64)
    kernels.cut(documents, dataset.sizes, length, divmod(first * length, MEBI), rows)
    starts = (first + np.arange(100)) * length
    assert (rows[:, 0] * MEBI + rows[:, 1]).tolist() == starts.tolist()
    found = DocumentRows(dataset, length, documents, rows, dataset.sequence_spans, 1, "").pieces(np.arange(99))
    wanted = documents[starts[:-1] // MEBI].astype(np.int64) * MEBI + starts[:-1] % MEBI
    assert found.starts[np.unique(found.rows, return_index=True)[1]].tolist() == wanted.tolist()
    assert found.covered().tolist() == [length + 1] * 99


def test_neox_order_of_the_whole(helper: str, dataset: IndexedDataset, plant: Callable[[int, list[int]], None]) -> None:
    """2^32 tokens in samples of 2^20, two epochs, built, cached in memory and read at the far end."""
    plant(4099 * MEBI, [7])
    options = PartOptions("documents", "neox", "packed", True, MEBI // 2, 5, IndexCache(None, print))
    part = make_part(dataset, None, (0, 4100), options, name="train", num_samples=9000, hashes={})
    assert part.order.size == samples_in(2 * 4100 * MEBI, MEBI // 2)
    rows = part.stream
    assert isinstance(rows, DocumentRows)
    place = int(np.flatnonzero(rows.documents == 4099)[0])
    text = read(dataset, rows.pieces(np.array([2 * place])), MEBI // 2 + 1, 0)
    assert text[0, 0] == 7
    assert text.sum() == 7


def test_an_index_of_more_samples_than_two_to_the_31() -> None:
    """In blocks of two samples each here: nothing in between is as long as the index."""
    sizes = np.full(3, 2**31 - 1, np.int32)
    blocks = sample_starts(np.array([2, 1, 0], np.int32), sizes, 1, 2**32)
    assert next(blocks)[-1].tolist() == [0, (1 << 22) - 1]
    rows = np.empty((3, 2), np.int64)
    after = kernels.cut(np.array([2, 1, 0], np.int32), sizes, 1, (0, 2**31 - 3), rows)
    assert rows.tolist() == [[0, 2**31 - 3], [0, 2**31 - 2], [1, 0]]
    assert after == (1, 1)


@pytest.mark.parametrize("edge", EDGES)
def test_documents_past_the_edge_when_packed(dataset: IndexedDataset, edge: int) -> None:
    """Whole documents around the edge, and an int32 document of more than 2^29 tokens' bytes in all."""
    options = PartOptions("documents", "computed", "pack_until_overflow", True, 3 * MEBI, 5, IndexCache(None, print))
    part = make_part(dataset, None, (0, 4100), options, name="train", num_samples=0, hashes={})
    number = edge // MEBI // 3
    found = part.stream.pieces(np.array([number]))
    assert found.starts.tolist() == [(3 * number + k) * MEBI for k in range(3)]

"""Shards hold every tensor once, within the limit, under the names of GPT-NeoX."""

import json
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file

from megatron.checkpointing.reader import CheckpointReader
from megatron.export.tensor_map import TensorMap
from megatron.export.weights import plan_shards, write_weights
from tests.megatron.export.tiny_checkpoint import write_checkpoint

NEOX = TensorMap("gpt_neox", 4, 4)


@given(st.lists(st.integers(1, 30), min_size=1, max_size=20), st.integers(1, 40))
def test_shards_keep_the_order_and_the_limit(sizes: list[int], limit: int) -> None:
    named = [(str(number), size) for number, size in enumerate(sizes)]
    plan = plan_shards(named, limit)
    assert [name for shard in plan for name in shard] == [name for name, _ in named]
    for shard in plan:
        assert len(shard) == 1 or sum(sizes[int(name)] for name in shard) <= limit


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shard_bytes", [10**9, 30_000])
def test_every_layout_gives_the_same_files(tmp_path: Path, dtype: torch.dtype, shard_bytes: int) -> None:
    contents = []
    for tp in (1, 2):
        reader = CheckpointReader(write_checkpoint(tmp_path / f"tp{tp}", tp=tp))
        folder = tmp_path / f"out{tp}"
        folder.mkdir()
        files = write_weights(reader, folder, NEOX, dtype, shard_bytes)
        assert (len(files) > 1) == (shard_bytes < 10**9)
        contents.append({file: (folder / file).read_bytes() for file in files})
    assert contents[0] == contents[1]


def test_index_names_the_file_of_every_tensor(tmp_path: Path) -> None:
    reader = CheckpointReader(write_checkpoint(tmp_path / "save"))
    write_weights(reader, tmp_path, NEOX, torch.float32, 30_000)
    index = json.loads((tmp_path / "model.safetensors.index.json").read_text())
    total = 0
    for name in reader.names():
        (theirs,) = NEOX.names(name)
        stored = load_file(tmp_path / index["weight_map"][theirs])[theirs]
        assert torch.equal(stored, reader.weight(name))
        total += stored.numel() * 4
    assert index["metadata"]["total_size"] == total

"""Shards hold every tensor once, within the limit, under the names of GPT-NeoX."""

import json
import weakref
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

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
    for pp, tp in ((1, 1), (2, 1), (1, 2), (2, 2)):
        reader = CheckpointReader(write_checkpoint(tmp_path / f"pp{pp}-tp{tp}", tp=tp, pp=pp))
        assert len(list(reader.folder.glob("weights-*"))) == pp * tp
        folder = tmp_path / f"out{pp}{tp}"
        folder.mkdir()
        files = write_weights(reader, folder, NEOX, dtype, shard_bytes)
        assert (len(files) > 1) == (shard_bytes < 10**9)
        contents.append({file: (folder / file).read_bytes() for file in files})
    assert contents[0] == contents[1] == contents[2] == contents[3]


def test_one_tensor_is_in_memory_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """When the next tensor is read, nothing is left of those before it."""
    reader = CheckpointReader(write_checkpoint(tmp_path / "save"))
    alive: list[weakref.ref[torch.Tensor]] = []
    weight = CheckpointReader.weight

    def watched(self: CheckpointReader, name: str) -> torch.Tensor:
        assert not [ref for ref in alive if ref() is not None]
        tensor = weight(self, name)
        alive.append(weakref.ref(tensor))
        return tensor

    monkeypatch.setattr(CheckpointReader, "weight", watched)
    write_weights(reader, tmp_path, NEOX, torch.bfloat16)
    assert len(alive) == len(reader.names())


def test_stock_safetensors_reads_every_byte_as_it_was(tmp_path: Path) -> None:
    """The file against safetensors' own writer: same header entries, same tensors."""
    reader = CheckpointReader(write_checkpoint(tmp_path / "save", {"num_kv_heads": 2}))
    tensor_map = TensorMap("llama", 4, 2)
    write_weights(reader, tmp_path, tensor_map, torch.float16)
    parts = {k: v.half() for name in reader.names() for k, v in tensor_map.split(name, reader.weight(name)).items()}
    save_file({k: v.contiguous() for k, v in parts.items()}, tmp_path / "theirs.safetensors", {"format": "pt"})
    ours, theirs = (load_file(tmp_path / f"{name}.safetensors") for name in ("model", "theirs"))
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert (tmp_path / "model.safetensors").stat().st_size <= (tmp_path / "theirs.safetensors").stat().st_size + 8


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

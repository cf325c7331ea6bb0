"""What the original's converter made of GPT-NeoX's files: the same files imported, then exported, give every tensor."""

import json
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import load_file
from tokenizers import Tokenizer
from tokenizers.models import WordLevel

from megatron.export.export import export_checkpoint, open_source
from megatron.importing.import_neox import import_neox_checkpoint
from megatron.neox_arguments.load import load_arguments
from tests.helpers.shared import shared_folder

CASES = ("tp1", "tp2", "tp2_sequential", "bf16_only", "fp16_disabled_plus_bf16", "fp16_true_scalar_bf16", "tied")
PRECISIONS = {"torch.float32": "fp32", "torch.float16": "fp16", "torch.bfloat16": "bf16"}


@pytest.mark.parametrize("case", CASES)
def test_every_tensor_of_the_original_export(tmp_path: Path, case: str) -> None:
    """Rounded by the original to its output type; sums over ranks may round once more."""
    goldens = shared_folder("reference", "goldens")
    arrays = np.load(goldens / "hf_convert.npz")
    known = json.loads((goldens / "hf_convert.json").read_text())[case]
    config = known["config"]
    _write_files(tmp_path / "old", arrays, case, sequential=config.get("pipe-parallel-size", 1) == 0)
    imported = import_neox_checkpoint(_arguments(tmp_path, config), tmp_path / "old", tmp_path / "new")
    precision = PRECISIONS[known["out_dtype"]]
    source = open_source(imported.checkpoint)
    export_checkpoint(source, tmp_path / "out", precision=precision, architecture="neox", verify=False)

    wanted = {name.removeprefix(f"{case}.out."): arrays[name] for name in arrays.files if f"{case}.out." in name[:40]}
    found = load_file(tmp_path / "out" / "model.safetensors")
    copies = {"embed_out.weight"} if case == "tied" else set()
    assert set(wanted) - copies == set(found)
    for name, tensor in found.items():
        tolerance = {"fp32": 1e-6, "fp16": 2e-3, "bf16": 2e-2}[precision]
        expected = torch.from_numpy(wanted[name].astype(np.float32))
        torch.testing.assert_close(tensor.float(), expected, rtol=tolerance, atol=tolerance)
    written = json.loads((tmp_path / "out" / "config.json").read_text())
    assert {key: written[key] for key in known["hf_config"]} == known["hf_config"] | {"rotary_pct": 0.5}


def _write_files(folder: Path, arrays: Any, case: str, *, sequential: bool) -> None:
    """The `.pt` files the original read: one per layer and rank, or one per rank."""
    files: dict[str, dict[str, torch.Tensor]] = defaultdict(dict)
    prefix = f"{case}.in.rank"
    for key in arrays.files:
        if not key.startswith(prefix):
            continue
        rank, layer, name = key.removeprefix(prefix).split(".", 2)
        number, tensor = int(layer.removeprefix("layer")), torch.from_numpy(arrays[key])
        if sequential:
            files[f"mp_rank_{int(rank):02d}_model_states.pt"][f"sequential.{number}.{name}"] = tensor
        else:
            files[f"layer_{number:02d}-model_{int(rank):02d}-model_states.pt"][name] = tensor
    step = folder / "global_step1"
    step.mkdir(parents=True)
    (folder / "latest").write_text("global_step1")
    for name, tensors in files.items():
        torch.save({"module": tensors} if sequential else tensors, step / name)


def _arguments(folder: Path, config: dict[str, Any]) -> Any:
    tokenizer = Tokenizer(WordLevel({"<|endoftext|>": 0, ".": 1, "a": 2}, unk_token="a"))
    tokenizer.save(str(folder / "tokenizer.json"))
    ours = {
        "vocab_file": str(folder / "tokenizer.json"),
        "seq_length": 32,
        "pos_emb": "rotary",
        "norm": "layernorm",
        "train_micro_batch_size_per_gpu": 1,
        "lr": 0.001,
        "USE_ORIGINAL_FULL_ATTEN": True,
        "rotary-pct": 0.5,  # the original's 0.25 would rotate one dimension of four, which settings here refuse
    }
    left_out = ("model-parallel-size", "pipe-parallel-size", "fp16", "bf16", "vocab-file")
    (folder / "old.yml").write_text(
        yaml.safe_dump({key: value for key, value in config.items() if key not in left_out} | ours)
    )
    return load_arguments([folder / "old.yml"])

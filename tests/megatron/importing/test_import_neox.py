"""GPT-NeoX's `.pt` files of both layouts and any tensor size become one model; nothing in them is run."""

import os
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from megatron.checkpointing.reader import CheckpointReader
from megatron.errors import CheckpointError
from megatron.importing.import_neox import import_neox_checkpoint, merge
from megatron.mpu.shard import Shard
from megatron.neox_arguments.load import load_arguments
from tests.helpers.shared import shared_folder

ROOT = Path(__file__).resolve().parents[3]
LAYERS, HIDDEN, VOCAB = 2, 8, 512
SETTINGS = {
    "num_layers": LAYERS, "hidden_size": HIDDEN, "num_attention_heads": 2, "seq_length": 16,
    "max_position_embeddings": 16, "pos_emb": "rotary", "rotary_pct": 0.5, "no_weight_tying": True,
    "gpt_j_residual": True, "make_vocab_size_divisible_by": 128, "tokenizer_type": "CharLevelTokenizer",
    "train_micro_batch_size_per_gpu": 1, "lr": 0.001, "USE_ORIGINAL_FULL_ATTEN": True,
}  # fmt: skip
SHAPES: dict[tuple[int, str], tuple[tuple[int, ...], int | None]] = {
    (0, "word_embeddings.weight"): ((VOCAB, HIDDEN), 0),
    (LAYERS + 3, "norm.weight"): ((HIDDEN,), None),
    (LAYERS + 3, "norm.bias"): ((HIDDEN,), None),
    (LAYERS + 4, "final_linear.weight"): ((VOCAB, HIDDEN), 0),
}
for _layer in range(2, LAYERS + 2):
    SHAPES |= {
        (_layer, "input_layernorm.weight"): ((HIDDEN,), None),
        (_layer, "input_layernorm.bias"): ((HIDDEN,), None),
        (_layer, "post_attention_layernorm.weight"): ((HIDDEN,), None),
        (_layer, "post_attention_layernorm.bias"): ((HIDDEN,), None),
        (_layer, "attention.query_key_value.weight"): ((3 * HIDDEN, HIDDEN), 0),
        (_layer, "attention.query_key_value.bias"): ((3 * HIDDEN,), 0),
        (_layer, "attention.dense.weight"): ((HIDDEN, HIDDEN), 1),
        (_layer, "attention.dense.bias"): ((HIDDEN,), None),
        (_layer, "mlp.dense_h_to_4h.weight"): ((4 * HIDDEN, HIDDEN), 0),
        (_layer, "mlp.dense_h_to_4h.bias"): ((4 * HIDDEN,), 0),
        (_layer, "mlp.dense_4h_to_h.weight"): ((HIDDEN, 4 * HIDDEN), 1),
        (_layer, "mlp.dense_4h_to_h.bias"): ((HIDDEN,), None),
    }


def whole_model() -> dict[tuple[int, str], torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    return {key: torch.randn(shape, generator=generator) for key, (shape, _) in SHAPES.items()}


def write_neox(folder: Path, tp: int, sequential: bool) -> Path:
    """What a run of GPT-NeoX leaves: cut over tp ranks, row biases in parts that add up, odd entries beside them."""
    step = folder / "global_step9"
    step.mkdir(parents=True)
    (folder / "latest").write_text("global_step9")
    for rank in range(tp):
        parts: dict[tuple[int, str], torch.Tensor] = {}
        for key, value in whole_model().items():
            dim = SHAPES[key][1]
            shared_bias = key[1].endswith(("attention.dense.bias", "dense_4h_to_h.bias"))
            parts[key] = value / tp if dim is None and shared_bias else value
            parts[key] = parts[key] if dim is None else value.chunk(tp, dim)[rank].clone()
        if sequential:
            module = {f"sequential.{layer}.{name}": value for (layer, name), value in parts.items()}
            module["sequential.2.attention.rotary_emb.inv_freq"] = torch.ones(2)
            beside = {"iteration": 9, "np_rng_state": np.random.RandomState(0).get_state(), "args": {"num_layers": 2}}
            torch.save({"module": module, **beside}, step / f"mp_rank_{rank:02d}_model_states.pt")
        else:
            for layer in {layer for layer, _ in parts}:
                tensors = {name: value for (number, name), value in parts.items() if number == layer}
                torch.save(tensors, step / f"layer_{layer:02d}-model_{rank:02d}-model_states.pt")
            torch.save({"module": None}, step / f"mp_rank_{rank:02d}_model_states.pt")
    return folder


def arguments(tmp_path: Path, **changes: Any) -> Any:
    path = tmp_path / "old.yml"
    path.write_text(yaml.safe_dump({**SETTINGS, **changes}))
    return load_arguments([path])


@pytest.mark.parametrize("sequential", [False, True])
@pytest.mark.parametrize("tp", [1, 2])
def test_every_tensor_arrives(tmp_path: Path, tp: int, sequential: bool) -> None:
    source = write_neox(tmp_path / "old", tp, sequential)
    done = import_neox_checkpoint(arguments(tmp_path), source, tmp_path / "new")
    reader = CheckpointReader(done.checkpoint)
    whole = whole_model()
    assert done.tensors == len(whole) == len(reader.names())
    for name in reader.names():
        from megatron.importing.import_neox import neox_key

        torch.testing.assert_close(reader.weight(name), whole[neox_key(name, LAYERS)], rtol=1e-6, atol=0)


def test_merges_equal_those_of_the_original(tmp_path: Path) -> None:
    """The original's converter on 2 tensor ranks, tensor by tensor."""
    found = np.load(shared_folder("reference", "goldens") / "hf_convert.npz")
    dims = {name: dim for (layer, name), (_, dim) in SHAPES.items() if layer == 2}
    for name, dim in dims.items():
        parts = [torch.from_numpy(found[f"tp2.in.rank{rank}.layer02.{name}"]).half() for rank in (0, 1)]
        merged = merge(Shard(f"layers.0.{name}", (), dim), parts, parallel_residual=True)
        wanted = torch.from_numpy(found[f"tp2.out.gpt_neox.layers.0.{name}"].astype(np.float32))
        torch.testing.assert_close(merged.float(), wanted, rtol=2e-3, atol=2e-3)


def test_what_does_not_fit_is_named(tmp_path: Path) -> None:
    source = write_neox(tmp_path / "old", 1, sequential=False)
    with pytest.raises(CheckpointError, match="tensors that a model of these settings does not have"):
        import_neox_checkpoint(arguments(tmp_path, num_layers=1), source, tmp_path / "new")
    with pytest.raises(CheckpointError, match="tensors that a model of these settings does not have, first 'norm"):
        import_neox_checkpoint(arguments(tmp_path, num_layers=4), source, tmp_path / "new")
    victim = source / "global_step9" / "layer_03-model_00-model_states.pt"
    whole = victim.read_bytes()
    torch.save({"input_layernorm.bias": torch.zeros(HIDDEN)}, victim)
    with pytest.raises(CheckpointError, match=r"no tensor '[\w.]+' in layer 03"):
        import_neox_checkpoint(arguments(tmp_path), source, tmp_path / "new")
    victim.write_bytes(whole)
    victim.write_bytes(victim.read_bytes()[:-500])
    with pytest.raises(CheckpointError, match="layer_03"):
        import_neox_checkpoint(arguments(tmp_path), source, tmp_path / "new")
    assert not (tmp_path / "new" / "global_step0").exists()


class Evil:
    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, tuple[Any, ...]]:
        return os.mkdir, (self.path,)


@pytest.mark.parametrize("kind", ["torch", "plain pickle"])
def test_code_in_a_file_is_not_run(tmp_path: Path, kind: str) -> None:
    source = write_neox(tmp_path / "old", 1, sequential=False)
    victim, marker = source / "global_step9" / "layer_02-model_00-model_states.pt", tmp_path / "marker"
    if kind == "torch":
        torch.save({"x": Evil(str(marker))}, victim)
    else:
        victim.write_bytes(pickle.dumps({"x": Evil(str(marker))}))
    with pytest.raises(CheckpointError):
        import_neox_checkpoint(arguments(tmp_path), source, tmp_path / "new")
    assert not marker.exists()
    torch.load(victim, weights_only=False) if kind == "torch" else pickle.loads(victim.read_bytes())
    assert marker.exists(), "the file does bite a loader that unpickles"


def test_the_command(tmp_path: Path) -> None:
    source = write_neox(tmp_path / "old", 2, sequential=False)
    arguments(tmp_path)
    command = [sys.executable, "tools/ckpts/import_neox_checkpoint.py", "--input_dir", str(source)]
    command += ["--config_file", str(tmp_path / "old.yml"), "--output_dir", str(tmp_path / "new")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0 and "28 tensors" in done.stdout, done.stderr
    assert subprocess.run(command, cwd=ROOT, capture_output=True).returncode == 4

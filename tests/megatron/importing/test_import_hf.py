"""Stock transformers models come in as the same models; what ours cannot be is refused by name."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from megatron.checkpointing.reader import CheckpointReader
from megatron.errors import CheckpointError, SettingsError
from megatron.export.tensor_map import TensorMap
from megatron.importing.hf_folder import open_hf_folder
from megatron.importing.hf_settings import source_of
from megatron.importing.import_hf import import_hf_model
from tests.megatron.importing.hf_models import KINDS, write_hf_model


@pytest.mark.parametrize("kind", KINDS)
def test_a_stock_model_is_the_same_after_import(tmp_path: Path, kind: str) -> None:
    folder = write_hf_model(tmp_path / "hf", kind)
    done = import_hf_model(folder, tmp_path / "ours")
    assert done.max_logit_difference is not None and done.max_logit_difference < 1e-5
    settings = done.settings.read_text()
    assert "num_layers: 3" in settings and "USE_ORIGINAL_FULL_ATTEN" not in settings


@pytest.mark.parametrize("kind", ["gpt_neox", "llama grouped, biased"])
def test_tensors_go_back_bit_for_bit(tmp_path: Path, kind: str) -> None:
    folder = open_hf_folder(write_hf_model(tmp_path / "hf", kind))
    done = import_hf_model(folder.path, tmp_path / "ours", verify=False)
    reader = CheckpointReader(done.checkpoint)
    heads = folder.config["num_attention_heads"]
    tensor_map = TensorMap(source_of(folder.config).family, heads, folder.config.get("num_key_value_heads") or heads)
    seen = set()
    for name in reader.names():
        for theirs, tensor in tensor_map.split(name, reader.weight(name)).items():
            assert torch.equal(tensor, folder.tensor(theirs))
            seen.add(theirs)
    missing = {name for name in folder.files if name not in seen} - {"lm_head.weight", "embed_out.weight"}
    assert not [name for name in missing if "rotary" not in name and "attention.bias" not in name]


def test_precision_is_kept_or_changed_when_asked(tmp_path: Path) -> None:
    folder = write_hf_model(tmp_path / "hf", "llama")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"dtype": "bfloat16"}))
    kept = CheckpointReader(import_hf_model(folder, tmp_path / "a", verify=False).checkpoint)
    changed = CheckpointReader(import_hf_model(folder, tmp_path / "b", precision="fp32", verify=False).checkpoint)
    assert kept.weight("final_norm.weight").dtype == torch.bfloat16
    assert changed.weight("final_norm.weight").dtype == torch.float32


@pytest.mark.parametrize(
    ("kind", "changes", "named"),
    [
        ("mistral", {"sliding_window": 32}, "sliding_window 32"),
        ("llama", {"mlp_bias": True}, "mlp_bias"),
        ("llama", {"rope_parameters": {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0}}, "scaling 'dynamic'"),
        ("llama", {"hidden_act": "tanh"}, "hidden_act 'tanh'"),
        ("gpt2", {}, "model_type 'gpt2'"),
    ],
)
def test_what_ours_cannot_be_is_refused(tmp_path: Path, kind: str, changes: dict[str, Any], named: str) -> None:
    folder = tmp_path / "hf"
    if kind == "gpt2":
        folder = write_hf_model(folder, "llama")
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps(config | {"model_type": kind}))
    else:
        write_hf_model(folder, kind, **changes)
    with pytest.raises(SettingsError, match=named):
        import_hf_model(folder, tmp_path / "ours")
    assert not (tmp_path / "ours" / "global_step0").exists()


def test_damaged_folders_are_named(tmp_path: Path) -> None:
    folder = write_hf_model(tmp_path / "hf", "llama")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"num_hidden_layers": 4}))
    with pytest.raises(CheckpointError, match=r"no tensor 'model\.layers\.3\."):
        import_hf_model(folder, tmp_path / "ours")
    (folder / "config.json").write_text(json.dumps(config | {"intermediate_size": 80}))
    with pytest.raises(CheckpointError, match=r"\[72, 32\]; config.json asks for \[80, 32\]"):
        import_hf_model(folder, tmp_path / "ours2")
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match="pickles and are not opened"):
        open_hf_folder(folder)
    (folder / "config.json").unlink()
    with pytest.raises(CheckpointError, match=r"no config\.json"):
        open_hf_folder(folder)


def test_an_unequal_model_is_not_put_in_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write_hf_model(tmp_path / "hf", "llama grouped, biased")
    monkeypatch.setattr(TensorMap, "join", lambda self, name, tensors: torch.cat(list(tensors)))
    with pytest.raises(CheckpointError, match="is not the one in"):
        import_hf_model(folder, tmp_path / "ours")
    assert not (tmp_path / "ours" / "global_step0").exists()

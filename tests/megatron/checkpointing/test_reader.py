"""Global tensors come back whole from every layout; what cannot be loaded is named, never guessed."""

import shutil
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from megatron.checkpointing.reader import CheckpointReader, find_checkpoint
from megatron.errors import CheckpointError
from tests.megatron.checkpointing.simulated_ranks import some_tensors, write_simulated


@settings(max_examples=12)
@given(tp=st.sampled_from([1, 2, 3, 4]), dp=st.integers(1, 5), seed=st.integers(0, 3))
def test_any_layout_gives_the_same_global_tensors(
    tmp_path_factory: pytest.TempPathFactory, tp: int, dp: int, seed: int
) -> None:
    tensors = some_tensors(seed)
    reader = CheckpointReader(write_simulated(tmp_path_factory.mktemp("save"), tensors, tp=tp, dp=dp))
    assert reader.names() == sorted(tensors)
    for name, (value, _) in tensors.items():
        assert reader.shape(name) == tuple(value.shape)
        assert torch.equal(reader.weight(name), value)
        assert torch.equal(reader.optimizer_tensor(name, "exp_avg"), 2 * value)


def test_newest_whole_checkpoint_is_found(tmp_path: Path) -> None:
    for iteration in (5, 10, 9):
        write_simulated(tmp_path, some_tensors(), tp=1, dp=1, iteration=iteration)
    (tmp_path / "backup_global_step99").mkdir()
    (tmp_path / "latest").write_text("global_step5\n")  # a hint, never believed
    assert find_checkpoint(tmp_path).name == "global_step10"
    assert find_checkpoint(tmp_path, iteration=9).name == "global_step9"
    assert find_checkpoint(tmp_path / "global_step5").name == "global_step5"


@pytest.mark.parametrize("damage", ["flip", "cut", "remove", "manifest"])
def test_a_damaged_newest_is_passed_over_aloud(tmp_path: Path, damage: str) -> None:
    write_simulated(tmp_path, some_tensors(), tp=1, dp=1, iteration=1)
    newest = write_simulated(tmp_path, some_tensors(), tp=1, dp=1, iteration=2)
    victim = newest / "weights-pp000-tp000.safetensors"
    content = bytearray(victim.read_bytes())
    if damage == "flip":
        content[-3] ^= 1
        victim.write_bytes(content)
    elif damage == "cut":
        victim.write_bytes(content[:-1])
    elif damage == "remove":
        victim.unlink()
    else:
        (newest / "manifest.json").unlink()
    said: list[str] = []
    assert find_checkpoint(tmp_path, say=said.append).name == "global_step1"
    assert "global_step2" in said[0]
    with pytest.raises(CheckpointError):
        find_checkpoint(tmp_path, iteration=2)


@pytest.mark.parametrize("kind", ["absent", "empty", "foreign"])
def test_nothing_loadable_is_an_error_that_says_what_is_there(tmp_path: Path, kind: str) -> None:
    load = tmp_path / "runs"
    if kind != "absent":
        load.mkdir()
    if kind == "foreign":
        (load / "model.pt").write_bytes(b"")
    with pytest.raises(CheckpointError) as caught:
        find_checkpoint(load)
    expected = {"absent": "does not exist", "empty": "is empty", "foreign": "model.pt"}[kind]
    assert expected in str(caught.value)
    assert caught.value.exit_code == 4


def test_a_missing_piece_is_an_error_not_zeros(tmp_path: Path) -> None:
    folder = write_simulated(tmp_path, some_tensors(), tp=2, dp=2)
    other = write_simulated(tmp_path / "other", some_tensors(), tp=2, dp=1)
    # The moments of data rank 0 of 2, beside no others: half of each part is absent.
    shutil.copy(other / "state.json", folder / "state.json")
    manifest = folder / "manifest.json"
    manifest.write_text(manifest.read_text().replace("optimizer-pp000-tp000-dp0001", "ignored-pp000-tp000-dp0001"))
    with pytest.raises(CheckpointError, match="values"):
        CheckpointReader(folder).optimizer_tensor("layers.0.mlp.dense_h_to_4h.weight", "exp_avg")


def test_an_unknown_tensor_names_the_settings_to_compare(tmp_path: Path) -> None:
    reader = CheckpointReader(write_simulated(tmp_path, some_tensors(), tp=1, dp=1))
    with pytest.raises(CheckpointError, match=r"layers\.7.*num_layers"):
        reader.weight("layers.7.attention.dense.weight")

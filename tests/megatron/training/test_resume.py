"""A stopped and resumed run equals the unbroken one: bit for bit at the same layout, closely at another."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from megatron.checkpointing.reader import CheckpointReader, find_checkpoint
from tests.helpers.processes import run_ranks
from tests.helpers.tiny_run import tiny_settings, write_settings, write_tiny_data

VOCABULARY = "['*word_embeddings*', '*final_linear*']"
ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_data(tmp_path_factory.mktemp("data"))


@pytest.mark.multiprocess
@pytest.mark.parametrize("precision", ["fp32", "bfloat16"])
def test_same_layout_is_bit_equal(tmp_path: Path, data: Path, precision: str) -> None:
    """Pipeline 2 with dropout on: stop at 6 of 12 by exit_interval, resume, compare with 12 at once."""
    settings = tiny_settings(
        data, precision=precision, hidden_dropout=0.1, train_iters=12, pipe_parallel_size=2, checkpoint_factor=100
    )
    config = str(write_settings(tmp_path / "config.yml", settings))
    whole, parts = str(tmp_path / "whole"), str(tmp_path / "parts")
    run_ranks(train_pieces, 2, config, [[f"save={whole}"]])
    run_ranks(train_pieces, 2, config, [[f"save={parts}", "exit_interval=6"], [f"save={parts}", f"load={parts}"]])
    assert _losses(parts) == _losses(whole)
    ours, theirs = _reader(parts), _reader(whole)
    for name in theirs.names():
        assert torch.equal(ours.weight(name), theirs.weight(name)), name
        for key in theirs.optimizer_keys():
            assert torch.equal(ours.optimizer_tensor(name, key), theirs.optimizer_tensor(name, key)), (name, key)


@pytest.mark.multiprocess
def test_other_layouts_continue_the_same_run(tmp_path: Path, data: Path) -> None:
    """Saved at tensor 2; resumed at pipeline 2, at data 2 and alone."""
    settings = tiny_settings(data, train_iters=12, checkpoint_factor=100)
    config = str(write_settings(tmp_path / "config.yml", settings))
    save = str(tmp_path / "tensor")
    run_ranks(train_pieces, 2, config, [[f"save={save}", "model_parallel_size=2", "exit_interval=6"]])
    pieces = [[f"save={save}", f"load={save}", "model_parallel_size=2"]]
    start = _copy(save, tmp_path / "start")
    run_ranks(train_pieces, 2, config, pieces)
    for ranks, layout in [(2, "pipe_parallel_size=2"), (2, "pipe_parallel_size=1"), (1, "pipe_parallel_size=1")]:
        other = _copy(start, tmp_path / f"{layout}-{ranks}")
        run_ranks(train_pieces, ranks, config, [[f"save={other}", f"load={other}", layout]])
        assert _losses(other) == pytest.approx(_losses(save), rel=1e-5)
        for name in _reader(save).names():
            torch.testing.assert_close(_reader(other).weight(name), _reader(save).weight(name), rtol=0, atol=1e-5)


@pytest.mark.multiprocess
def test_warm_start_retention_and_refusals(tmp_path: Path, data: Path) -> None:
    """In one process: weights only, kept checkpoints, a changed model, a changed tokenizer, a loss that is NaN."""
    settings = tiny_settings(data, train_iters=6, checkpoint_factor=2, keep_last_n_checkpoints=2)
    config = str(write_settings(tmp_path / "config.yml", settings))
    [seen] = run_ranks(warm_starts, 1, config, str(tmp_path))
    assert seen["kept"] == ["global_step4", "global_step6"]
    for what, fresh in {"finetune": 0, "deeper": 12, "other_words": 2}.items():
        assert seen[what]["position"] == [0, 0] and seen[what]["right"] and len(seen[what]["fresh"]) == fresh, what
    assert seen["finetune"]["loaded"] == seen["deeper"]["loaded"] == seen["other_words"]["loaded"] + 2
    assert "layers.4.attention.dense.bias: not in the checkpoint" in seen["deeper_unasked"]
    assert "2 tensors differ" in seen["other_words_unasked"] and "word_embeddings" in seen["other_words_unasked"]
    assert seen["fresh_moments"] == [6, 24]
    assert "num_layers: 4 -> 3 (--set num_layers=3)" in seen["other_model"]
    assert "tokenizer_type:" in seen["other_tokenizer"]
    assert "The loss is nan at step 1" in seen["nan"]
    assert seen["nan_saved"] == []


@pytest.mark.multiprocess
def test_sigterm_saves_and_leaves_with_75(tmp_path: Path, data: Path) -> None:
    save = tmp_path / "run"
    settings = tiny_settings(
        data, train_iters=100_000, save=str(save), checkpoint_factor=100_000, pipe_parallel_size=2, num_gpus=2
    )
    config = write_settings(tmp_path / "config.yml", settings)
    process = subprocess.Popen(
        [sys.executable, "deepy.py", "train.py", str(config)],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        events = save / "events.jsonl"
        deadline = time.monotonic() + 600
        while not (events.exists() and '"kind": "step"' in events.read_text()):
            assert process.poll() is None and time.monotonic() < deadline, process.communicate()[0]
            time.sleep(0.1)
        process.send_signal(signal.SIGTERM)
        said, _ = process.communicate(timeout=600)
    finally:
        process.kill()
    assert process.returncode == 75, said
    assert "SIGTERM" in said and "load=" in said
    stopped = _reader(save)
    assert stopped.state["consumed_samples"] == 4 * stopped.iteration > 0


@pytest.mark.multiprocess
def test_a_second_run_does_not_overwrite_the_first(tmp_path: Path, data: Path) -> None:
    settings = tiny_settings(data, train_iters=2, save=str(tmp_path / "run"), checkpoint_factor=1)
    config = write_settings(tmp_path / "config.yml", settings)
    command = [sys.executable, "deepy.py", "train.py", str(config)]
    assert subprocess.run(command, cwd=ROOT, timeout=600).returncode == 0
    before = sorted(path.name for path in (tmp_path / "run").iterdir())
    again = subprocess.run(command, cwd=ROOT, timeout=600, capture_output=True, text=True)
    assert again.returncode == 4
    assert "global_step2" in again.stderr and "load=" in again.stderr
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == before


def train_pieces(config: str, pieces: list[list[str]]) -> None:
    """Runs on every rank: one training run after another, each with its own overrides, stops included."""
    from megatron.errors import StopRequested
    from megatron.neox_arguments.load import load_arguments
    from megatron.training.build import build_run, start_parallel
    from megatron.training.loop import train
    from megatron.training.resume import load_run

    parallel = None
    for overrides in pieces:
        args = load_arguments([config], overrides, world_size=int(os.environ["WORLD_SIZE"]))
        parallel = parallel or start_parallel(args)
        run = build_run(args, parallel)
        load_run(run)
        try:
            train(run)
        except StopRequested:
            continue


def warm_starts(config: str, folder: str) -> dict[str, Any]:
    """Runs in one process; what each way of loading led to."""
    from megatron.errors import CheckpointError, NumericsError
    from megatron.neox_arguments.load import load_arguments
    from megatron.training.build import build_run, start_parallel
    from megatron.training.loop import train
    from megatron.training.resume import load_run
    from megatron.training.warm_start import warm_start

    save = f"{folder}/run"
    parallel = start_parallel(load_arguments([config], [], world_size=1))

    def make(*overrides: str) -> Any:
        return build_run(load_arguments([config], overrides, world_size=1), parallel)

    train(make(f"save={save}"))
    seen: dict[str, Any] = {"kept": sorted(path.name for path in Path(save).glob("global_step*"))}

    reader = _reader(save)
    deeper = ["num_layers=5", "prefill_loc_win_size_list=[64, 8, 8, 8, 8]"]
    for what, overrides in {
        "finetune": [f"load={save}", "finetune=true"],
        "deeper": [f"warm_start={save}", *deeper, "warm_start_fresh=['layers.4.*']"],
        "other_words": [f"warm_start={save}", *_other_words(folder), f"warm_start_fresh={VOCABULARY}"],
    }.items():
        run = make(*overrides, f"log_dir={folder}/{what}")
        initial = {p.shard.name: p.detach().clone() for p in run.engine.module.parameters()}
        load_run(run)
        warm_start(run)
        weights = {p.shard.name: p.detach() for p in run.engine.module.parameters()}
        [event] = [json.loads(line) for line in Path(folder, what, "events.jsonl").read_text().splitlines()]
        seen[what] = {
            "position": [run.state.iteration, run.state.consumed_samples],
            "fresh": event["fresh"],
            "loaded": event["tensors"],
            "right": all(
                torch.equal(value, initial[name] if name in event["fresh"] else reader.weight(name))
                for name, value in weights.items()
            ),
        }
    for what, overrides in {"deeper_unasked": deeper, "other_words_unasked": _other_words(folder)}.items():
        with pytest.raises(CheckpointError) as refused:
            warm_start(make(f"warm_start={save}", *overrides))
        seen[what] = str(refused.value)

    run = make(f"load={save}", "no_load_optim=true")
    load_run(run)
    seen["fresh_moments"] = [run.state.iteration, run.state.consumed_samples]

    for what, overrides in {
        "other_model": ["num_layers=3", "prefill_loc_win_size_list=[64, 8, 8]"],
        "other_tokenizer": _other_words(folder),
    }.items():
        with pytest.raises(CheckpointError) as caught:
            load_run(make(f"load={save}", *overrides))
        seen[what] = str(caught.value)

    run = make(f"save={folder}/nan", "checkpoint_factor=1")
    with torch.no_grad():
        for parameter in run.engine.module.parameters():
            parameter.fill_(float("nan"))
    with pytest.raises(NumericsError) as stopped:
        train(run)
    seen["nan"] = str(stopped.value)
    seen["nan_saved"] = [path.name for path in Path(folder, "nan").glob("global_step*")]
    return seen


def _other_words(folder: str) -> list[str]:
    return ["tokenizer_type=HFTokenizer", f"vocab_file={_tokenizer(folder)}", "separators=."]


def _tokenizer(folder: str) -> Path:
    """A tokenizer.json that knows all characters of the data, by other numbers."""
    from tokenizers import Tokenizer, models, pre_tokenizers

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {symbol: number for number, symbol in enumerate([*alphabet, "<|endoftext|>"])}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.add_special_tokens(["<|endoftext|>"])
    path = Path(folder, "tokenizer.json")
    tokenizer.save(str(path))
    return path


def _copy(folder: str | Path, target: Path) -> str:
    import shutil

    shutil.copytree(folder, target)
    return str(target)


def _reader(save: str | Path) -> CheckpointReader:
    return CheckpointReader(find_checkpoint(save))


def _losses(save: str | Path) -> list[Any]:
    events = [json.loads(line) for line in (Path(save) / "events.jsonl").read_text().splitlines()]
    losses = [event["loss"] for event in events if event["kind"] == "step"]
    assert len(losses) == 12
    return losses

"""Twenty fp32 steps in which ranks share each text equal the single process: losses, final weights, statistics."""

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch

from megatron.checkpointing.reader import CheckpointReader, find_checkpoint
from tests.helpers.processes import run_ranks
from tests.helpers.tiny_run import tiny_settings, write_settings, write_tiny_data

ONE_WINDOW: dict[str, Any] = {
    "USE_PREFILL_LOCAL_WIN_SIZES_wrt_LAYERS": False,
    "prefill_loc_win_size_list": None,
    "prefill_local_window_size": 8,
}
MODES: dict[str, dict[str, Any]] = {
    "sepllm": {"checkpoint_activations": True, "checkpoint_num_layers": 2},
    "streaming": {**ONE_WINDOW, "streamingLLM": True, "separators": None, "train_micro_batch_size_per_gpu": 1},
    "full": {**ONE_WINDOW, "USE_ORIGINAL_FULL_ATTEN": True, "separators": None, "checkpoint_activations": True},
    "bipe": {"USE_BiPE": True, "BiPE_seps": [32, 46], "num_kv_heads": 2, "checkpoint_activations": True},
    # Attention within documents, labels masked on some ranks only, a ledger, attention cores recomputed alone.
    "documents": {
        "attention_document_mask": True,
        "eod_mask_loss": True,
        "num_workers": 1,
        "log_sample_hashes": True,
        "pos_emb": "alibi",
        "num_kv_heads": 2,
        "no_weight_tying": False,
        "checkpoint_activations": True,
        "recompute_granularity": "selective",
    },
    "self_adjusting": {"USE_SA_SOFTMAX": True, "pos_emb": "learned"},
    "fixed": {
        **ONE_WINDOW,
        "USE_FIXED_SEP_INTERVALs": True,
        "fixed_sep_intervals_list": [5, 3, 9, 4],
        "separators": None,
    },
    "bf16": {"precision": "bfloat16"},
    "zero3": {"zero_optimization": {"stage": 3}, "checkpoint_activations": True},
}
TWO = "context_parallel_size=2"
# name -> processes, overrides. Every mode meets two ranks; on four, each main mode meets some layout, and
# `make test-all` brings them all together.
LAYOUTS: dict[str, tuple[int, list[str]]] = {
    "cp2": (2, [TWO]),
    "cp4": (4, ["context_parallel_size=4"]),
    "cp2_tp2": (4, [TWO, "model_parallel_size=2"]),
    "cp2_pp2": (4, [TWO, "pipe_parallel_size=2"]),
    "cp2_dp2": (4, [TWO]),
}
MEETINGS = {"cp2": list(MODES), "cp4": ["sepllm", "streaming"], "cp2_pp2": ["bipe"], "cp2_dp2": ["full", "documents"]}
FURTHER = {
    "cp4": ["full", "bipe"],
    "cp2_tp2": ["sepllm", "streaming", "full", "bipe", "documents"],
    "cp2_pp2": ["sepllm", "streaming", "full"],
    "cp2_dp2": ["sepllm", "streaming", "bipe"],
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Settings of each mode, and the single-process runs in `single/MODE`."""
    folder = tmp_path_factory.mktemp("context")
    data = write_tiny_data(folder / "data")
    for mode, changes in MODES.items():
        # Two rows in a micro-batch have unequal numbers of separators: the gathered rows are padded.
        settings = {"checkpoint_factor": 10, "train_micro_batch_size_per_gpu": 2, **changes}
        write_settings(folder / f"{mode}.yml", tiny_settings(data, **settings))
    count = len(MODES)
    run_ranks(train_modes, 1, str(folder), ["single"] * count, list(MODES), [[]] * count)
    return folder


@pytest.mark.multiprocess
@pytest.mark.parametrize("layout", MEETINGS)
def test_layout_equals_single_process(folder: Path, layout: str) -> None:
    assert_layout_equals_single_process(folder, layout, MEETINGS[layout])


@pytest.mark.multiprocess
@pytest.mark.exhaustive
@pytest.mark.parametrize("layout", FURTHER)
def test_further_meetings(folder: Path, layout: str) -> None:
    assert_layout_equals_single_process(folder, layout, FURTHER[layout])


def assert_layout_equals_single_process(folder: Path, layout: str, modes: list[str]) -> None:
    ranks, overrides = LAYOUTS[layout]
    count = len(modes)
    run_ranks(train_modes, ranks, str(folder), [layout] * count, modes, [overrides] * count)
    for mode in modes:
        if mode == "bf16":  # measured: 3e-4
            single = losses(folder / "single" / mode)
            assert losses(folder / layout / mode) == pytest.approx(single, rel=1e-3)
        else:
            assert_equal_runs(folder / "single" / mode, folder / layout / mode)


@pytest.fixture(scope="module")
def pieces(folder: Path) -> Path:
    """Runs on two ranks that stop, go on, and draw random numbers; then one that goes on from there on one rank."""
    dropout = ["hidden_dropout=0.1", "attention_dropout=0.1", "attention_path=reference", "train_iters=8"]
    from_single = [f"load={folder}/single/sepllm", "iteration=10"]
    two_ranks = {
        "half": ["train_iters=10", "lr_decay_iters=20"],
        "from_one": from_single,
        "stored": [*dropout, "checkpoint_activations=false"],
        "recomputed": [*dropout, "checkpoint_factor=4"],
        "resumed": [*dropout, f"load={folder}/recomputed/sepllm", "iteration=4"],
    }
    names = list(two_ranks)
    run_ranks(train_modes, 2, str(folder), names, ["sepllm"] * len(names), [[TWO, *two_ranks[name]] for name in names])
    run_ranks(train_modes, 1, str(folder), ["from_two"], ["sepllm"], [[f"load={folder}/half/sepllm", "iteration=10"]])
    return folder


@pytest.mark.multiprocess
@pytest.mark.parametrize("run", ["from_one", "from_two"])
def test_a_run_goes_on_with_another_context_size(pieces: Path, run: str) -> None:
    """From one rank to two and from two to one, at step 10 of 20."""
    assert losses(pieces / run / "sepllm") == pytest.approx(losses(pieces / "single" / "sepllm")[10:], rel=1e-5)
    assert_equal_weights(pieces / "single" / "sepllm", pieces / run / "sepllm")


@pytest.mark.multiprocess
def test_dropout_survives_recomputation_and_resuming(pieces: Path) -> None:
    """Bit for bit: recomputed layers draw what they drew, and a resumed rank goes on with its own numbers."""
    recomputed = losses(pieces / "recomputed" / "sepllm")
    assert recomputed == losses(pieces / "stored" / "sepllm")
    assert recomputed[4:] == losses(pieces / "resumed" / "sepllm")
    assert recomputed[0] != losses(pieces / "single" / "sepllm")[0]


def train_modes(folder: str, names: list[str], modes: list[str], overrides: list[list[str]]) -> None:
    """Runs on every rank: one run after the other, each to its end, saving under folder/name/mode."""
    from megatron.neox_arguments.load import load_arguments
    from megatron.training.build import build_run, start_parallel
    from megatron.training.loop import train
    from megatron.training.resume import load_run

    parallel = None
    for name, mode, changes in zip(names, modes, overrides, strict=True):
        args = load_arguments(
            [f"{folder}/{mode}.yml"],
            [*changes, f"save={folder}/{name}/{mode}"],
            world_size=int(os.environ["WORLD_SIZE"]),
        )
        parallel = parallel or start_parallel(args)
        run = build_run(args, parallel)
        load_run(run)
        train(run)


def assert_equal_runs(expected: Path, actual: Path) -> None:
    """Losses and statistics of every step and of evaluation, samples read, final weights."""
    for mine, theirs in zip(events(actual), events(expected), strict=True):
        assert mine["kind"] == theirs["kind"]
        for key, relative in {"loss": 1e-5, "grad_norm": 1e-4, "kept_ratio": 1e-9, "kept_by_layer": 1e-9}.items():
            if key in theirs:
                assert mine[key] == pytest.approx(theirs[key], rel=relative), (mine["kind"], mine.get("iteration"), key)
        assert mine.get("hash") == theirs.get("hash")
        assert mine.get("tokens") == theirs.get("tokens")
    assert_equal_weights(expected, actual)


def assert_equal_weights(expected: Path, actual: Path) -> None:
    ours, single = (CheckpointReader(find_checkpoint(folder)) for folder in (actual, expected))
    assert ours.names() == single.names()
    for name in ours.names():
        torch.testing.assert_close(ours.weight(name), single.weight(name), rtol=0, atol=1e-5, msg=name)


def events(save: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (save / "events.jsonl").read_text().splitlines()]


def losses(save: Path) -> list[float]:
    return [event["loss"] for event in events(save) if event["kind"] == "step"]

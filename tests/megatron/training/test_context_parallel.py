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
    "streaming": {**ONE_WINDOW, "streamingLLM": True, "separators": None, "train_micro_batch_size_per_gpu": 2},
    "full": {**ONE_WINDOW, "USE_ORIGINAL_FULL_ATTEN": True, "separators": None, "checkpoint_activations": True},
    "bipe": {"USE_BiPE": True, "BiPE_seps": [32, 46], "num_kv_heads": 2, "checkpoint_activations": True},
    # Attention within documents, labels masked on some ranks only, rows of unequal numbers of separators, a ledger.
    "documents": {
        "attention_document_mask": True,
        "eod_mask_loss": True,
        "num_workers": 1,
        "log_sample_hashes": True,
        "train_micro_batch_size_per_gpu": 2,
        "pos_emb": "alibi",
        "num_kv_heads": 2,
        "no_weight_tying": False,
    },
    "self_adjusting": {"USE_SA_SOFTMAX": True, "pos_emb": "learned"},
    "fixed": {
        **ONE_WINDOW,
        "USE_FIXED_SEP_INTERVALs": True,
        "fixed_sep_intervals_list": [5, 3, 9, 4],
        "separators": None,
    },
    "zero3": {"zero_optimization": {"stage": 3}, "checkpoint_activations": True},
}
# pipeline, tensor, context, processes
LAYOUTS = {
    "cp2": (1, 1, 2, 2),
    "cp4": (1, 1, 4, 4),
    "cp2_tp2": (1, 2, 2, 4),
    "cp2_pp2": (2, 1, 2, 4),
    "cp2_dp2": (1, 1, 2, 4),
}
ON_TWO_RANKS_ONLY = ("self_adjusting", "fixed", "zero3")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Settings of each mode, and the single-process runs in `single/MODE`."""
    folder = tmp_path_factory.mktemp("context")
    data = write_tiny_data(folder / "data")
    for mode, changes in MODES.items():
        write_settings(folder / f"{mode}.yml", tiny_settings(data, checkpoint_factor=1000, **changes))
    run_ranks(train_modes, 1, str(folder), "single", list(MODES), 1, 1, 1)
    return folder


@pytest.mark.multiprocess
@pytest.mark.parametrize("layout", LAYOUTS)
def test_layout_equals_single_process(folder: Path, layout: str) -> None:
    *sizes, ranks = LAYOUTS[layout]
    modes = [mode for mode in MODES if ranks == 2 or mode not in ON_TWO_RANKS_ONLY]
    run_ranks(train_modes, ranks, str(folder), layout, modes, *sizes, timeout=300)
    for mode in modes:
        assert_equal_runs(folder / "single" / mode, folder / layout / mode)


def train_modes(folder: str, layout: str, modes: list[str], pp: int, tp: int, cp: int) -> None:
    """Runs on every rank: train each mode to the end, saving under folder/layout/mode."""
    from megatron.neox_arguments.load import load_arguments
    from megatron.training.build import build_run, start_parallel
    from megatron.training.loop import train

    parallel = None
    for mode in modes:
        args = load_arguments(
            [f"{folder}/{mode}.yml"],
            [
                f"pipe_parallel_size={pp}",
                f"model_parallel_size={tp}",
                f"context_parallel_size={cp}",
                f"save={folder}/{layout}/{mode}",
            ],
            world_size=int(os.environ["WORLD_SIZE"]),
        )
        parallel = parallel or start_parallel(args)
        train(build_run(args, parallel))


def assert_equal_runs(expected: Path, actual: Path) -> None:
    """Losses and statistics of every step and of evaluation, samples read, final weights."""
    for mine, theirs in zip(events(actual), events(expected), strict=True):
        assert mine["kind"] == theirs["kind"]
        for key, relative in {"loss": 1e-5, "grad_norm": 1e-4, "kept_ratio": 1e-9, "kept_by_layer": 1e-9}.items():
            if key in theirs:
                assert mine[key] == pytest.approx(theirs[key], rel=relative), (mine["kind"], mine.get("iteration"), key)
        assert mine.get("hash") == theirs.get("hash")
    ours, single = (CheckpointReader(find_checkpoint(folder)) for folder in (actual, expected))
    assert ours.names() == single.names()
    for name in ours.names():
        torch.testing.assert_close(ours.weight(name), single.weight(name), rtol=0, atol=1e-5, msg=name)


def events(save: Path) -> list[dict[str, Any]]:
    found = [json.loads(line) for line in (save / "events.jsonl").read_text().splitlines()]
    assert sum(event["kind"] == "step" for event in found) == 20
    return found

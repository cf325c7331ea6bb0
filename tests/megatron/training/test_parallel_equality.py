"""Twenty fp32 steps at every layout equal the single process: losses and final weights, for each attention mode.

The single process itself is held against a plain torch loop that knows nothing of DeepSpeed.
"""

import json
import os
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from megatron.checkpointing.reader import CheckpointReader, find_checkpoint
from tests.helpers.processes import run_ranks
from tests.helpers.tiny_run import tiny_settings, write_settings, write_tiny_data

MODES: dict[str, dict[str, Any]] = {
    "sepllm": {},
    "streaming": {
        "streamingLLM": True,
        "USE_PREFILL_LOCAL_WIN_SIZES_wrt_LAYERS": False,
        "prefill_loc_win_size_list": None,
        "prefill_local_window_size": 8,
        "separators": None,
    },
    "full": {
        "USE_ORIGINAL_FULL_ATTEN": True,
        "USE_PREFILL_LOCAL_WIN_SIZES_wrt_LAYERS": False,
        "prefill_loc_win_size_list": None,
        "separators": None,
    },
    # Attention within documents, batches read ahead by processes, and a ledger of the samples of each step.
    "documents": {"attention_document_mask": True, "num_workers": 2, "log_sample_hashes": True},
}
LAYOUTS = {"pp2": (2, 1, 2), "tp2": (1, 2, 2), "dp2": (1, 1, 2), "pp2_tp2": (2, 2, 4), "pp2_dp2": (2, 1, 4)}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Settings of each mode, and the single-process runs in `single/MODE`."""
    folder = tmp_path_factory.mktemp("equality")
    data = write_tiny_data(folder / "data")
    for mode, changes in MODES.items():
        settings = tiny_settings(data, checkpoint_factor=1000, **changes)
        write_settings(folder / f"{mode}.yml", settings)
    run_ranks(train_all_modes, 1, str(folder), "single", 1, 1)
    return folder


@pytest.mark.multiprocess
@pytest.mark.parametrize("layout", LAYOUTS)
def test_layout_equals_single_process(folder: Path, layout: str) -> None:
    pp, tp, ranks = LAYOUTS[layout]
    run_ranks(train_all_modes, ranks, str(folder), layout, pp, tp)
    for mode in MODES:
        _assert_equal_runs(folder / "single" / mode, folder / layout / mode)
        assert _work(folder / layout / mode, ranks) == pytest.approx(_work(folder / "single" / mode, 1), rel=1e-9)


@pytest.mark.multiprocess
def test_single_process_equals_a_plain_torch_loop(folder: Path) -> None:
    for mode in MODES:
        [losses] = run_ranks(plain_loop, 1, str(folder), mode)
        assert losses == pytest.approx(_losses(folder / "single" / mode), rel=1e-5)


@pytest.mark.multiprocess
def test_modes_differ(folder: Path) -> None:
    """The comparison above would pass if every mode were the same model."""
    runs = [_losses(folder / "single" / mode) for mode in MODES]
    assert all(abs(a[-1] - b[-1]) > 1e-4 for a, b in combinations(runs, 2))


@pytest.mark.multiprocess
def test_the_ledger_names_the_samples_of_every_step(folder: Path) -> None:
    """What the engine took is what stands at these positions; other layouts are held against this run above."""
    from megatron.data.from_args import datasets_from_args
    from megatron.data.ledger import as_hex, sample_hashes
    from megatron.neox_arguments.load import load_arguments

    source = datasets_from_args(load_arguments([folder / "documents.yml"], world_size=1), 512).train.source
    for step, entry in enumerate(_ledger(folder / "single" / "documents")):
        ids = np.stack(source.locate(np.arange(4 * step, 4 * step + 4)), axis=1)
        assert entry == (4, as_hex(int(sample_hashes(ids).sum(dtype=np.uint64))))


def train_all_modes(folder: str, layout: str, pp: int, tp: int) -> None:
    """Runs on every rank: train each mode to the end, saving under folder/layout/mode."""
    from megatron.neox_arguments.load import load_arguments
    from megatron.training.build import build_run, start_parallel
    from megatron.training.loop import train

    parallel = None
    for mode in MODES:
        args = load_arguments(
            [f"{folder}/{mode}.yml"],
            [f"pipe_parallel_size={pp}", f"model_parallel_size={tp}", f"save={folder}/{layout}/{mode}"],
            world_size=int(os.environ["WORLD_SIZE"]),
        )
        parallel = parallel or start_parallel(args)
        train(build_run(args, parallel))


def plain_loop(folder: str, mode: str) -> list[float]:
    """Losses of GPTModel under torch AdamW in a loop of our own, without DeepSpeed."""
    from megatron.data.from_args import datasets_from_args
    from megatron.model.config import end_of_document_from_args, model_config_from_args, separator_ids_from_args
    from megatron.model.gpt_model import GPTModel
    from megatron.model.loss import language_model_loss
    from megatron.mpu.parallel_state import TensorParallel
    from megatron.neox_arguments.load import load_arguments
    from megatron.optim.schedule import schedule_from_args
    from megatron.tokenizer.tokenizer import build_tokenizer

    args = load_arguments([f"{folder}/{mode}.yml"], world_size=1)
    tokenizer = build_tokenizer(args.tokenizer_type, None)
    config = model_config_from_args(
        args, 512, separator_ids_from_args(args, tokenizer), end_of_document_from_args(args, tokenizer)
    )
    model = GPTModel(config, TensorParallel())
    schedule = schedule_from_args(args)
    decayed = [p for p in model.parameters() if p.dim() > 1]
    kept = [p for p in model.parameters() if p.dim() == 1]
    groups = [{"params": decayed, "weight_decay": 0.1}, {"params": kept, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=0.005, betas=(0.9, 0.95), eps=1e-6)
    batches = datasets_from_args(args, tokenizer).train.batches(
        consumed_samples=0, micro_batch_size=1, dp_rank=0, dp_size=1
    )
    losses = []
    for update in range(1, 21):
        total = 0.0
        for _ in range(4):
            batch = next(batches)
            loss = language_model_loss(model(batch.tokens), (batch.labels, batch.loss_mask), TensorParallel())
            (loss / 4).backward()
            total += loss.item() / 4
        torch.nn.utils.clip_grad_norm_(model.parameters(), 0.5)
        for group in optimizer.param_groups:
            group["lr"] = schedule.lr(update)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(total)
    return losses


def _assert_equal_runs(expected: Path, actual: Path) -> None:
    assert _losses(actual) == pytest.approx(_losses(expected), rel=1e-5)
    assert _ledger(actual) == _ledger(expected)
    ours, theirs = CheckpointReader(find_checkpoint(actual)), CheckpointReader(find_checkpoint(expected))
    assert ours.names() == theirs.names()
    for name in ours.names():
        torch.testing.assert_close(ours.weight(name), theirs.weight(name), rtol=0, atol=1e-5, msg=name)


def _losses(save: Path) -> list[float]:
    losses = [event["loss"] for event in _events(save) if event["kind"] == "step"]
    assert len(losses) == 20
    return losses


def _work(save: Path, ranks: int) -> list[float]:
    """10^12 operations of every step, all ranks together."""
    found = [event["tflops"] * event["seconds"] * ranks for event in _events(save) if event["kind"] == "step"]
    assert len(found) == 20 and min(found) > 0
    return found


def _ledger(save: Path) -> list[tuple[int, str]]:
    """(samples, hash) of every step; empty where no ledger was asked for."""
    found = [(event["samples"], event["hash"]) for event in _events(save) if event["kind"] == "samples"]
    assert len(found) == (20 if save.name == "documents" else 0)
    return found


def _events(save: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (save / "events.jsonl").read_text().splitlines()]

"""Every optimizer under ZeRO's slices: any layout equals the single process, and a resumed run the unbroken one."""

import importlib.util
import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch

from megatron.checkpointing.reader import CheckpointReader
from tests.helpers.processes import run_ranks
from tests.helpers.tiny_run import tiny_settings, write_settings, write_tiny_data

BLOCKS: dict[str, dict[str, Any]] = {
    "adam_l2": {"type": "Adam", "params": {"lr": 0.005, "eps": 1e-6, "adam_w_mode": False}},
    "lion": {"type": "Lion", "params": {"lr": 0.001, "betas": [0.9, 0.99]}},
    "sgd": {"type": "SGD", "params": {"lr": 0.5, "momentum": 0.9}},
    "muon": {"type": "Muon", "params": {"lr": 0.005, "betas": [0.9, 0.95], "eps": 1e-6}},
    "adafactor": {"type": "Adafactor", "params": {"lr": 0.02}},
}
if importlib.util.find_spec("bitsandbytes"):
    BLOCKS["adam8bit"] = {"type": "AdamW8bit", "params": {"lr": 0.005, "eps": 1e-6}}
OPTIMIZERS: dict[str, dict[str, Any]] = {name: {"optimizer": block} for name, block in BLOCKS.items()}
OPTIMIZERS["adam_mup"] = {"use_mup": True, "mup_base_width": 8, "mup_output_temp": 0.5}
LAYOUTS = {"dp2": (1, 1, 1), "pp2": (2, 1, 1), "zero2": (1, 1, 2), "zero3": (1, 1, 3)}  # pp, tp, ZeRO
LAYOUTS["tp2_dp2"] = (1, 2, 1)  # on four processes, for what gathers over both
WHERE_IT_MATTERS = {
    "pp2": ("lion", "muon", "adafactor"),
    "zero2": ("muon", "adafactor", "adam8bit"),
    "zero3": ("lion", "sgd", "adam8bit"),  # which refuses whole matrices
    "tp2_dp2": ("muon", "adafactor"),
}
# The sign of a mean that is rounding noise around 0 is noise, too: Lion's losses differ by what such weights matter.
# A code of 8 bits changes by a 256th where noise moves a moment over its border, and blocks begin elsewhere.
BOUNDS = {"lion": 2e-3, "adam8bit": 2e-2}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("optimizers")
    data = write_tiny_data(folder / "data")
    common = {"num_layers": 2, "prefill_loc_win_size_list": [64, 8], "min_lr": 0.0, "train_iters": 8}
    for name, changes in OPTIMIZERS.items():
        settings = tiny_settings(data, checkpoint_factor=4, **common, **changes)
        write_settings(folder / f"{name}.yml", settings)
    run_ranks(train_all, 1, str(folder), "single", 1, 1, 1, list(OPTIMIZERS))
    return folder


@pytest.mark.multiprocess
@pytest.mark.parametrize("layout", LAYOUTS)
def test_layout_equals_single_process(folder: Path, layout: str) -> None:
    """From the start, and from the single process's checkpoint of step 4."""
    pp, tp, zero = LAYOUTS[layout]
    ranks = 4 if layout == "tp2_dp2" else 2
    names = [name for name in OPTIMIZERS if layout == "dp2" or name in WHERE_IT_MATTERS[layout]]
    run_ranks(train_all, ranks, str(folder), layout, pp, tp, zero, names)
    for name in names:
        whole, bound = losses(folder / "single" / name), BOUNDS.get(name, 1e-5)
        assert losses(folder / layout / name) == pytest.approx(whole, rel=bound), name
        assert losses(folder / f"{layout}-resumed" / name) == pytest.approx(whole[4:], rel=bound), name
        if name in BOUNDS:
            continue
        ours, theirs = last(folder / f"{layout}-resumed" / name), last(folder / "single" / name)
        for weight in theirs.names():
            torch.testing.assert_close(ours.weight(weight), theirs.weight(weight), rtol=0, atol=2e-5, msg=weight)


@pytest.mark.multiprocess
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_resumed_is_bit_equal(folder: Path, name: str) -> None:
    assert_resumed_is_bit_equal(folder, "single", name)


@pytest.mark.multiprocess
def test_resumed_is_bit_equal_in_bf16_on_two_processes(folder: Path) -> None:
    """DeepSpeed has another optimizer around ours there, which keeps fp32 masters."""
    names = [name for name in OPTIMIZERS if name not in ("adam_l2", "sgd", "adam_mup")]  # theirs is torch's own code
    run_ranks(train_all, 2, str(folder), "bf16", 1, 1, 1, names, ["precision=bfloat16"])
    for name in names:
        assert_resumed_is_bit_equal(folder, "bf16", name)
        near = pytest.approx(losses(folder / "single" / name), rel=0.02)
        assert losses(folder / "bf16" / name) == near, name
        assert "fp32" in last(folder / "bf16" / name).optimizer_keys()


def test_the_package_of_eight_bits_is_here() -> None:
    if not importlib.util.find_spec("bitsandbytes"):
        pytest.skip("bitsandbytes is not installed, so AdamW8bit was left out here (pip install bitsandbytes)")
    assert "adam8bit" in OPTIMIZERS


def assert_resumed_is_bit_equal(folder: Path, layout: str, name: str) -> None:
    """Weights and every kind of optimizer state at step 8, stopped at 4 or not."""
    assert losses(folder / f"{layout}-resumed" / name) == losses(folder / layout / name)[4:], name
    ours, theirs = last(folder / f"{layout}-resumed" / name), last(folder / layout / name)
    kinds = theirs.optimizer_keys()
    assert kinds == ours.optimizer_keys() and kinds
    for weight in theirs.names():
        assert torch.equal(ours.weight(weight), theirs.weight(weight)), weight
        assert ours.optimizer_kinds(weight) == theirs.optimizer_kinds(weight)
        for kind in theirs.optimizer_kinds(weight):
            mine, other = ours.optimizer_tensor(weight, kind), theirs.optimizer_tensor(weight, kind)
            assert torch.equal(mine, other) and other.any(), (weight, kind)


@pytest.mark.multiprocess
def test_each_learns_and_no_two_are_the_same(folder: Path) -> None:
    runs = {name: losses(folder / "single" / name) for name in OPTIMIZERS}
    assert all(run[-1] < run[0] - 0.1 for run in runs.values()), runs
    assert len({round(run[-1], 4) for run in runs.values()}) == len(runs)


@pytest.mark.multiprocess
def test_state_of_another_optimizer_is_refused(folder: Path) -> None:
    said = run_ranks(load_other, 1, str(folder / "sgd.yml"), str(folder / "single"))[0]
    assert "optimizer.type" in said["muon"]
    assert "holds momentum_buffer of" in said["sgd"] and "keeps no optimizer state. " in said["sgd"]
    assert "no_load_optim" in said["sgd"]


def train_all(
    folder: str, layout: str, pp: int, tp: int, zero: int, names: list[str], more: tuple[str, ...] = ()
) -> None:
    """Runs on every rank: each optimizer for 8 steps, and from step 4 to 8.

    The checkpoint of step 4 is that of the single process, or with `more` settings their own.
    """
    from megatron.neox_arguments.load import load_arguments
    from megatron.training.build import build_run, start_parallel
    from megatron.training.loop import train
    from megatron.training.resume import load_run

    parallel = None
    for name in names:
        from_four = [f"load={folder}/{layout if more else 'single'}/{name}", "iteration=4"]
        for target, overrides in ((layout, []), (f"{layout}-resumed", from_four)):
            where = [f"pipe_parallel_size={pp}", f"model_parallel_size={tp}", f"save={folder}/{target}/{name}"]
            where.append(f"zero_optimization={{stage: {zero}}}")
            args = load_arguments(
                [f"{folder}/{name}.yml"], [*where, *more, *overrides], world_size=int(os.environ["WORLD_SIZE"])
            )
            parallel = parallel or start_parallel(args)
            run = build_run(args, parallel)
            load_run(run)
            train(run)


def load_other(config: str, checkpoints: str) -> dict[str, str]:
    """What SGD without momentum says to state of Muon, and of SGD with momentum."""
    from megatron.errors import CheckpointError
    from megatron.neox_arguments.load import load_arguments
    from megatron.training.build import build_run, start_parallel
    from megatron.training.resume import load_run

    said, parallel = {}, None
    for saved in ("muon", "sgd"):
        overrides = [f"load={checkpoints}/{saved}", "optimizer={type: SGD, params: {lr: 0.5}}"]
        args = load_arguments([config], overrides, world_size=1)
        parallel = parallel or start_parallel(args)
        with pytest.raises(CheckpointError) as caught:
            load_run(build_run(args, parallel))
        said[saved] = str(caught.value)
    return said


def losses(save: Path) -> list[float]:
    events = [json.loads(line) for line in (save / "events.jsonl").read_text().splitlines()]
    return [event["loss"] for event in events if event["kind"] == "step"]


def last(save: Path) -> CheckpointReader:
    return CheckpointReader(save / "global_step8")

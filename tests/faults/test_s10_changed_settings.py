"""Any setting changed between save and resume stops the run, or is said and in force; no key goes unnoticed."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from megatron.neox_arguments.arguments import NeoXArgs
from megatron.neox_arguments.changes import MUST_MATCH, compare
from megatron.neox_arguments.load import load_arguments
from megatron.training.saving import resolved_settings
from tests.helpers.processes import run_ranks
from tests.helpers.tiny_run import tiny_settings, write_settings, write_tiny_data


@pytest.fixture
def args(tmp_path: Path) -> NeoXArgs:
    settings = tiny_settings(tmp_path / "data", save=str(tmp_path / "run"), checkpoint_factor=2)
    return load_arguments([write_settings(tmp_path / "config.yml", settings)], world_size=1)


def test_every_key(args: NeoXArgs, score: Callable[..., None]) -> None:
    """Each key of the settings is given another value in the saved run: it stops the resume, or a line says it."""
    saved = resolved_settings(args)
    assert set(saved) == set(NeoXArgs.model_fields)
    assert saved["hidden_size"]["from"].endswith("config.yml:2") and saved["rotary_emb_base"]["from"] == "default"
    unchanged = compare(saved, args)
    assert not unchanged.must_match and not unchanged.may_change
    held = 0
    for key in saved:
        before = other(saved[key]["value"])
        changes = compare({**saved, key: {"value": before, "from": "x.yml:1"}}, args)
        found = [*changes.must_match, *changes.may_change]
        assert found, key
        assert all(change.key.split(".")[0] == key and " -> " in str(change) for change in found)
        assert bool(changes.must_match) == (key in MUST_MATCH or key == "optimizer"), key
        assert not (changes.may_change and key in MUST_MATCH), key
        held += 1
    score("S10", held, len(saved), "about 10 keys are compared (GPT-NeoX, Megatron-LM); the rest changes in silence")


def other(value: Any) -> Any:
    if isinstance(value, bool):
        return not value
    if isinstance(value, int | float):
        return value + 1
    if isinstance(value, dict):
        return {key: other(item) for key, item in value.items()}
    return f"not {value}"


def test_optimizers_with_the_same_state_may_take_turns(args: NeoXArgs) -> None:
    saved = resolved_settings(args)
    block = saved["optimizer"]["value"]
    for kind, refused in [("AdamW", False), ("SGD", True)]:
        saved["optimizer"] = {"value": {**block, "type": kind}, "from": "x.yml:1"}
        assert bool(compare(saved, args).must_match) is refused
        assert not compare(saved, args, optimizer_state=False).must_match


def test_keys_that_one_of_the_programs_does_not_know(args: NeoXArgs) -> None:
    saved = resolved_settings(args)
    del saved["rotary_emb_base"], saved["log_interval"]
    saved["of_the_past"] = {"value": 3, "from": "x.yml:1"}
    changes = compare(saved, args)
    assert not changes.must_match, "what was not there had its default"
    assert sorted(change.key for change in changes.may_change) == ["log_interval", "of_the_past"]


@pytest.mark.multiprocess
def test_changed_values_are_in_force(tmp_path: Path) -> None:
    data = write_tiny_data(tmp_path / "data")
    config = write_settings(tmp_path / "config.yml", tiny_settings(data, train_iters=2, checkpoint_factor=2))
    [seen] = run_ranks(changed_runs, 1, str(config), str(tmp_path / "run"))
    assert seen["lr"] == pytest.approx(0.001) and seen["betas"] == [0.8, 0.9] and seen["decay"] == 0.3
    assert seen["clip"] == 0.25 and seen["dropout"] == [0.2] and seen["batch"] == 8
    for line in ("optimizer.params.lr: 0.005 -> 0.001", "hidden_dropout: 0.0 -> 0.2", "gradient_clipping: 0.5 -> 0.25"):
        assert any(line in change for change in seen["changes"]), (line, seen["changes"])
    assert "num_layers: 4 -> 3" in seen["stopped"]
    assert seen["data_after"] == 8 + 8 * 2


CHANGED = [
    "optimizer={type: Adam, params: {lr: 0.001, betas: [0.8, 0.9], eps: 1.0e-6}}",
    "weight_decay=0.3",
    "gradient_clipping=0.25",
    "hidden_dropout=0.2",
    "train_batch_size=8",
    "lr_decay_style=constant",
    "warmup=0",
    "train_iters=4",
]


def changed_runs(config: str, save: str) -> dict[str, Any]:
    """Two steps, then two more with other settings; what the engine really used."""
    import json

    from megatron.errors import CheckpointError
    from megatron.training.build import build_run, start_parallel
    from megatron.training.loop import train
    from megatron.training.resume import load_run

    def make(*overrides: str) -> Any:
        args = load_arguments([config], [f"save={save}", *overrides], world_size=1)
        run = build_run(args, start_parallel(args))
        load_run(run)
        return run

    train(make())
    seen: dict[str, Any] = {}
    try:
        make(f"load={save}", "num_layers=3", "prefill_loc_win_size_list=[64, 8, 12]")
    except CheckpointError as error:
        seen["stopped"] = str(error)
    run = make(f"load={save}", *CHANGED)
    train(run)
    group = run.engine.optimizer.optimizer.param_groups[0]
    modules = [module for module in run.engine.module.modules() if hasattr(module, "dropout")]
    seen |= {
        "lr": group["lr"], "betas": list(group["betas"]), "decay": group["weight_decay"],
        "clip": run.engine.optimizer.clip_grad, "batch": run.engine.train_batch_size(),
        "dropout": sorted({module.dropout for module in modules}), "data_after": run.state.consumed_samples,
    }  # fmt: skip
    events = [json.loads(line) for line in Path(save, "events.jsonl").read_text().splitlines()]
    seen["changes"] = [change for event in events if event["kind"] == "changes" for change in event["changes"]]
    return seen

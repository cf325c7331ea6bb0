"""Trackers: GPT-NeoX's tags, clear words for what is missing, and no failure that reaches the run."""

import math
import sys
import types
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from megatron.errors import SettingsError
from megatron.monitor import sinks
from megatron.monitor.set_loss import SetLoss
from megatron.monitor.sinks import (
    TensorBoardSink,
    Trackers,
    WandbSettings,
    WandbSink,
    step_scalars,
    validation_scalars,
)
from tests.megatron.monitor.test_console import RESULT


class FakeRun:
    def __init__(self) -> None:
        self.logged: list[dict[str, Any]] = []
        self.metrics: list[tuple[str, str | None]] = []
        self.finished = False

    def define_metric(self, name: str, step_metric: str | None = None) -> None:
        self.metrics.append((name, step_metric))

    def log(self, values: dict[str, Any]) -> None:
        self.logged.append(values)

    def finish(self) -> None:
        self.finished = True


@pytest.fixture
def wandb(monkeypatch: pytest.MonkeyPatch) -> types.SimpleNamespace:
    module = types.SimpleNamespace(run=FakeRun(), asked={}, api=types.SimpleNamespace(api_key=None))

    def init(**asked: Any) -> FakeRun:
        module.asked = asked
        return module.run

    module.init = init
    monkeypatch.setitem(sys.modules, "wandb", module)
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_BASE_URL", "unset")
    return module


def test_gpt_neox_tags() -> None:
    values = step_scalars(RESULT)
    assert values["train/lm_loss"] == RESULT.loss
    assert values["train/learning_rate"] == RESULT.lr
    assert values["runtime/samples_per_sec"] == RESULT.samples_per_second
    assert values["runtime/iteration_time"] == RESULT.seconds
    assert "train/loss_scale" not in values


def test_wandb_offline(wandb: types.SimpleNamespace) -> None:
    settings = WandbSettings(project="p", team="t", group="g", host="http://here", run_id="abc")
    trackers = Trackers([WandbSink(settings, {"hidden_size": 64})])
    trackers.step(RESULT)
    trackers.validation(SetLoss("validation", 2.0, tokens=64, samples=1), iteration=10)
    trackers.close()
    trackers.close()
    asked = {name: wandb.asked[name] for name in ("project", "entity", "group", "id", "resume", "config")}
    assert asked == {
        "project": "p",
        "entity": "t",
        "group": "g",
        "id": "abc",
        "resume": "allow",
        "config": {"hidden_size": 64},
    }
    assert sinks.os.environ["WANDB_BASE_URL"] == "http://here"
    assert wandb.run.logged[0]["iteration"] == 10 and wandb.run.logged[0]["train/lm_loss"] == RESULT.loss
    assert wandb.run.logged[1] == {"iteration": 10, "validation/lm_loss": 2.0, "validation/lm_loss_ppl": math.exp(2.0)}
    assert ("*", "iteration") in wandb.run.metrics
    assert wandb.run.finished


def test_wandb_without_a_login_does_not_wait_for_one(
    wandb: types.SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("WANDB_MODE")
    with pytest.raises(SettingsError, match="WANDB_MODE=offline"):
        WandbSink(WandbSettings(), {})
    wandb.api.api_key = "known"
    WandbSink(WandbSettings(), {})


def test_wandb_that_does_not_start(wandb: types.SimpleNamespace) -> None:
    def init(**_: Any) -> None:
        raise RuntimeError("server says no")

    wandb.init = init
    with pytest.raises(SettingsError, match="server says no"):
        WandbSink(WandbSettings(), {})


@pytest.mark.parametrize(
    ("module", "build", "words"),
    [
        ("wandb", lambda folder: WandbSink(WandbSettings(), {}), "use_wandb.*pip install wandb"),
        ("torch.utils.tensorboard", TensorBoardSink, "tensorboard_dir.*pip install tensorboard"),
    ],
)
def test_a_missing_package(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, module: str, build: Any, words: str
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(SettingsError, match=words):
        build(str(tmp_path))


def test_tensorboard_hides_what_a_resume_rolled_back(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    written: list[Any] = []

    class Writer:
        def __init__(self, log_dir: str, purge_step: int) -> None:
            written.append((log_dir, purge_step))

        def add_scalar(self, tag: str, value: float, step: int) -> None:
            written.append((tag, value, step))

        def close(self) -> None:
            written.append("closed")

    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", types.SimpleNamespace(SummaryWriter=Writer))
    trackers = Trackers([TensorBoardSink(str(tmp_path / "tb"))])
    trackers.scalars({"a": 1.0}, 11)
    trackers.scalars({"a": 2.0}, 12)
    trackers.close()
    assert written == [(str(tmp_path / "tb"), 11), ("a", 1.0, 11), ("a", 2.0, 12), "closed"]


def test_a_failing_tracker_is_off_and_the_others_go_on(caplog: pytest.LogCaptureFixture) -> None:
    class Sink:
        def __init__(self, name: str, fails: bool) -> None:
            self.name, self.fails, self.seen = name, fails, 0

        def scalars(self, values: Mapping[str, float], iteration: int) -> None:
            self.seen += 1
            if self.fails:
                raise ConnectionError("no route")

        def close(self) -> None:
            raise OSError("already gone")

    bad, good = Sink("bad", True), Sink("good", False)
    trackers = Trackers([bad, good])
    trackers.step(RESULT)
    trackers.step(RESULT)
    trackers.close()
    assert (bad.seen, good.seen) == (1, 2)
    words = [record.getMessage() for record in caplog.records]
    assert len(words) == 2 and "bad failed" in words[0] and "good did not close" in words[1]


def test_named_sets_have_tags_of_their_own() -> None:
    tags = {name: set(validation_scalars(SetLoss(name, 2.0, tokens=9, samples=1))) for name in ("books", "test")}
    assert tags["books"] == {"validation/books_lm_loss", "validation/books_lm_loss_ppl"}
    assert tags["test"] == {"test/lm_loss", "test/lm_loss_ppl"}

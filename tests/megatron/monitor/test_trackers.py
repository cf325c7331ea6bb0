"""Trackers: GPT-NeoX's tags, clear words for what is missing, and no failure that reaches the run."""

import math
import os
import sys
import threading
import time
import types
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from megatron.errors import SettingsError
from megatron.launcher import entry
from megatron.monitor.comet_sink import CometSettings, CometSink
from megatron.monitor.set_loss import SetLoss
from megatron.monitor.tags import step_scalars, validation_scalars
from megatron.monitor.tensorboard_sink import TensorBoardSink
from megatron.monitor.trackers import Trackers
from megatron.monitor.wandb_sink import WandbSettings, WandbSink
from tests.megatron.monitor.test_console import RESULT


class FakeRun:
    """What wandb.init returns: refuses to go back, as the real one does."""

    def __init__(self) -> None:
        self.logged: list[tuple[int, dict[str, Any]]] = []
        self.metrics: list[tuple[str, str | None]] = []
        self.exit_code: int | None = None

    def define_metric(self, name: str, step_metric: str | None = None) -> None:
        self.metrics.append((name, step_metric))

    def log(self, values: dict[str, Any], step: int) -> None:
        if not self.logged or step >= self.logged[-1][0]:
            self.logged.append((step, values))

    def finish(self, exit_code: int) -> None:
        self.exit_code = exit_code


@pytest.fixture
def wandb(monkeypatch: pytest.MonkeyPatch) -> types.SimpleNamespace:
    module = types.SimpleNamespace(run=FakeRun(), asked={}, api=types.SimpleNamespace(api_key=None), Settings=dict)

    def init(**asked: Any) -> FakeRun:
        module.asked = asked
        return module.run

    module.init = init
    monkeypatch.setitem(sys.modules, "wandb", module)
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.delenv("WANDB_DIR", raising=False)
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_BASE_URL", "unset")
    return module


class FakeExperiment:
    def __init__(self) -> None:
        self.calls: list[Any] = []

    def __getattr__(self, name: str) -> Any:
        return lambda *values, **named: self.calls.append((name, *values, *named.values()))


@pytest.fixture
def comet(monkeypatch: pytest.MonkeyPatch) -> types.SimpleNamespace:
    module = types.SimpleNamespace(experiment=FakeExperiment(), asked={}, ExperimentConfig=dict)

    def start(**asked: Any) -> FakeExperiment:
        module.asked = asked
        return module.experiment

    module.start = start
    module.get_config = lambda name: None
    monkeypatch.setitem(sys.modules, "comet_ml", module)
    monkeypatch.delenv("COMET_API_KEY", raising=False)
    monkeypatch.delenv("COMET_OFFLINE_DIRECTORY", raising=False)
    monkeypatch.setenv("COMET_START_ONLINE", "false")
    return module


def test_gpt_neox_tags() -> None:
    values = step_scalars(RESULT)
    assert values["train/lm_loss"] == RESULT.loss
    assert values["train/learning_rate"] == RESULT.lr
    assert values["runtime/samples_per_sec"] == RESULT.samples_per_second
    assert values["runtime/iteration_time"] == RESULT.seconds
    assert "train/loss_scale" not in values


def test_wandb_offline(wandb: types.SimpleNamespace, tmp_path: Path) -> None:
    settings = WandbSettings("p", team="t", group="g", run_name="n", host="http://here", folder=str(tmp_path))
    trackers = Trackers([WandbSink(settings, {"hidden_size": 64})])
    trackers.step(RESULT)
    trackers.validation(SetLoss("validation", 2.0, tokens=64, samples=1), iteration=10)
    trackers.close(failed=True)
    trackers.close()
    names = ("project", "entity", "group", "name", "resume", "dir", "config")
    assert [wandb.asked[name] for name in names] == ["p", "t", "g", "n", "allow", str(tmp_path), {"hidden_size": 64}]
    assert os.environ["WANDB_BASE_URL"] == "http://here"
    (first, loss), (second, validation) = wandb.run.logged
    assert first == second == 10 and loss["iteration"] == 10 and loss["train/lm_loss"] == RESULT.loss
    assert validation == {"iteration": 10, "validation/lm_loss": 2.0, "validation/lm_loss_ppl": math.exp(2.0)}
    assert ("*", "iteration") in wandb.run.metrics
    assert wandb.run.exit_code == 1


def test_a_resumed_run_is_the_same_wandb_run_and_loses_no_step(wandb: types.SimpleNamespace, tmp_path: Path) -> None:
    """Crash after step 6, saved at 4: W&B would drop what it has seen, so its own step goes on and ours is the x."""
    settings = WandbSettings(folder=str(tmp_path))
    ids = []
    for iterations in ([*range(1, 7)], [*range(5, 9)], [*range(9, 11)]):
        trackers = Trackers([WandbSink(settings, {})])
        trackers.rewind(iterations[0] - 1)
        for iteration in iterations:
            trackers.scalars({"a": 0.5}, iteration)
            trackers.scalars({"b": 0.5}, iteration)
        trackers.close()
        ids.append(wandb.asked["id"])
    assert len(set(ids)) == 1 and ids[0]
    rows = [(step, values["iteration"]) for step, values in wandb.run.logged if "a" in values]
    assert [iteration for _, iteration in rows] == [*range(1, 7), *range(5, 9), *range(9, 11)]
    assert [step for step, _ in rows] == list(range(1, 13))
    assert len(wandb.run.logged) == 2 * len(rows)
    other = Trackers([WandbSink(WandbSettings(folder=str(tmp_path / "other")), {})])
    other.scalars({}, 1)
    other.close()
    assert wandb.asked["id"] != ids[0]


def test_a_resumed_run_is_the_same_comet_experiment(comet: types.SimpleNamespace, tmp_path: Path) -> None:
    settings = CometSettings("w", "p", "n", ("tag",), {"purpose": "test"}, folder=str(tmp_path))
    keys = []
    for iteration in (1, 2):
        trackers = Trackers([CometSink(settings, {"hidden_size": 64})])
        trackers.rewind(iteration - 1)
        trackers.scalars({"a": 0.5}, iteration)
        trackers.close()
        keys.append(comet.asked["experiment_key"])
    assert keys[0] == keys[1] and 32 <= len(keys[0]) <= 50 and keys[0].isalnum()
    asked = comet.asked
    assert (asked["workspace"], asked["project_name"], asked["mode"], asked["online"]) == (
        "w",
        "p",
        "get_or_create",
        False,
    )
    assert asked["experiment_config"]["name"] == "n" and asked["experiment_config"]["tags"] == ["tag"]
    start = [("log_parameters", {"hidden_size": 64}), ("log_others", {"purpose": "test"})]
    calls = comet.experiment.calls
    assert calls == [*start, ("log_metrics", {"a": 0.5}, 1), ("end",), *start, ("log_metrics", {"a": 0.5}, 2), ("end",)]


def test_comet_without_a_login(comet: types.SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COMET_START_ONLINE", "true")
    with pytest.raises(SettingsError, match="COMET_START_ONLINE=false"):
        CometSink(CometSettings(), {})
    monkeypatch.setenv("COMET_API_KEY", "k")
    CometSink(CometSettings(), {})


def test_wandb_without_a_login_does_not_wait_for_one(
    wandb: types.SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("WANDB_MODE")
    with pytest.raises(SettingsError, match="WANDB_MODE=offline"):
        WandbSink(WandbSettings(), {})
    wandb.api.api_key = "known"
    WandbSink(WandbSettings(), {})


def test_wandb_that_does_not_start(wandb: types.SimpleNamespace, caplog: pytest.LogCaptureFixture) -> None:
    """A server that is down is no reason to hold a run up."""

    def init(**_: Any) -> None:
        raise RuntimeError("server says no")

    wandb.init = init
    trackers = Trackers([WandbSink(WandbSettings(), {})])
    trackers.step(RESULT)
    trackers.close()
    assert "server says no" in caplog.text and "Weights & Biases failed" in caplog.text


@pytest.mark.parametrize(
    ("module", "build", "words"),
    [
        ("wandb", lambda folder: WandbSink(WandbSettings(), {}), "use_wandb.*pip install wandb"),
        ("comet_ml", lambda folder: CometSink(CometSettings(), {}), "use_comet.*pip install comet_ml"),
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
        def __init__(self, log_dir: str, purge_step: int | None = None) -> None:
            written.append((log_dir, purge_step))

        def add_scalar(self, tag: str, value: float, step: int) -> None:
            written.append((tag, value, step))

        def close(self) -> None:
            written.append("closed")

    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", types.SimpleNamespace(SummaryWriter=Writer))
    trackers = Trackers([TensorBoardSink(str(tmp_path / "tb"))])
    trackers.rewind(10)
    trackers.scalars({"a": 1.0}, 12)
    trackers.rewind(10)
    trackers.scalars({"a": 2.0}, 12)
    trackers.close()
    folder = str(tmp_path / "tb")
    assert written == [(folder, 11), ("a", 1.0, 12), "closed", (folder, 11), ("a", 2.0, 12), "closed"]


def test_tensorboard_reads_one_value_per_step(tmp_path: Path) -> None:
    """With the real package: a crash after 15, a resume at 10 with reports at other steps, a return from 20 to 18."""
    reader = pytest.importorskip(
        "tensorboard.backend.event_processing.event_accumulator", reason="pip install tensorboard"
    )
    first = Trackers([TensorBoardSink(str(tmp_path))])
    first.rewind(0)
    for step in (5, 10, 13, 15):
        first.scalars({"a": 1.0}, step)
    first.close()
    second = Trackers([TensorBoardSink(str(tmp_path))])
    second.rewind(10)
    for step in (14, 18, 20):
        second.scalars({"a": 2.0}, step)
    second.rewind(18)
    second.scalars({"a": 3.0}, 19)
    second.close()
    accumulator = reader.EventAccumulator(str(tmp_path))
    accumulator.Reload()
    seen = [(event.step, event.value) for event in accumulator.Scalars("a")]
    assert seen == [(5, 1.0), (10, 1.0), (14, 2.0), (18, 2.0), (19, 3.0)]


class Plain:
    """A sink that remembers; `fails` names the calls that raise."""

    def __init__(self, name: str, *fails: str) -> None:
        self.name, self.fails, self.seen = name, fails, []

    def start(self) -> None:
        self._call("start")

    def scalars(self, values: Mapping[str, float], iteration: int) -> None:
        self._call("scalars")

    def rewind(self, iteration: int) -> None:
        self._call("rewind")

    def close(self, failed: bool) -> None:
        self._call("close")

    def _call(self, name: str) -> None:
        self.seen.append(name)
        if name in self.fails:
            raise ConnectionError(f"no route to {name}")


def test_a_failing_tracker_is_off_and_the_others_go_on(caplog: pytest.LogCaptureFixture) -> None:
    unreachable, bad, hasty, good = (
        Plain("far", "start"),
        Plain("bad", "scalars"),
        Plain("hasty", "close"),
        Plain("good"),
    )
    trackers = Trackers([unreachable, bad, hasty, good])
    trackers.step(RESULT)
    trackers.step(RESULT)
    trackers.close()
    assert (unreachable.seen, bad.seen) == (["start"], ["start", "scalars"])
    assert hasty.seen == good.seen == ["start", "scalars", "scalars", "close"]
    words = sorted(record.getMessage() for record in caplog.records)
    assert [word.split(" failed")[0] for word in words] == ["bad", "far", "hasty"]
    assert "no route to scalars" in words[0]


def test_a_run_that_never_begins_leaves_nothing() -> None:
    sink = Plain("idle")
    Trackers([sink]).close()
    assert sink.seen == []


def test_a_hanging_tracker_holds_nobody_up(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """A thousand reports to a tracker that never returns take no longer than to one that does; the queue is bounded."""

    monkeypatch.setattr(entry, "_hanging", False)

    class Hanging(Plain):
        released = threading.Event()
        inside = threading.Event()

        def scalars(self, values: Mapping[str, float], iteration: int) -> None:
            self.inside.set()
            self.released.wait()

    def seconds(sink: Plain) -> float:
        trackers = Trackers([sink], patience=0.2, queued=100)
        trackers.step(RESULT)
        if isinstance(sink, Hanging):
            assert sink.inside.wait(60)
        start = time.monotonic()
        for _ in range(1000):
            trackers.step(RESULT)
        taken = time.monotonic() - start
        trackers.close()
        return taken

    try:
        with_it, without = seconds(Hanging("stuck")), seconds(Plain("quick"))
    finally:
        Hanging.released.set()
    assert entry._hanging, "the interpreter would wait for it at exit"
    assert with_it < 10 * without + 30.0  # 200 s if each report waited
    words = [record.getMessage() for record in caplog.records if "stuck" in record.getMessage()]
    assert "stuck is 100 reports late" in words[0]
    assert any("did not take its last figures" in word for word in words)


def test_named_sets_have_tags_of_their_own() -> None:
    tags = {name: set(validation_scalars(SetLoss(name, 2.0, tokens=9, samples=1))) for name in ("books", "test")}
    assert tags["books"] == {"validation/books_lm_loss", "validation/books_lm_loss_ppl"}
    assert tags["test"] == {"test/lm_loss", "test/lm_loss_ppl"}

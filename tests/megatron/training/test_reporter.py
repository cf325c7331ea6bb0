"""Scores of tasks: one sentence each, one event with all, one tag per metric."""

from typing import Any

from megatron.monitor.events import read_events
from megatron.mpu.parallel_state import single_process
from megatron.neox_arguments.load import arguments_from_texts
from megatron.training.reporter import Reporter
from tests.helpers.tiny_run import tiny_settings, write_settings


class Tags:
    name = "tags"

    def __init__(self) -> None:
        self.values: dict[str, float] = {}

    def start(self) -> None:
        pass

    def rewind(self, iteration: int) -> None:
        pass

    def scalars(self, values: dict[str, float], iteration: int) -> None:
        self.values |= {f"{tag} at {iteration}": value for tag, value in values.items()}

    def close(self, failed: bool) -> None:
        pass


def test_scores_of_tasks(tmp_path: Any, monkeypatch: Any) -> None:
    tags = Tags()
    monkeypatch.setattr("megatron.training.reporter._sinks", lambda args: [tags])
    settings = write_settings(tmp_path / "a.yml", tiny_settings(tmp_path, log_dir=str(tmp_path))).read_text()
    reporter = Reporter(arguments_from_texts([("a.yml", settings)]), single_process())
    said: list[str] = []
    monkeypatch.setattr(reporter, "say", said.append)
    scores = {"piqa": {"sample_len": 8.0, "acc,none": 0.625, "acc_stderr,none": 0.18}}
    reporter.tasks(40, scores)
    reporter.close()
    assert said == ["piqa at step 40: acc,none 0.6250"]
    (event,) = read_events(tmp_path / "events.jsonl")
    assert (event["kind"], event["iteration"], event["scores"]) == ("tasks", 40, scores)
    assert tags.values["tasks/piqa/acc_none at 40"] == 0.625

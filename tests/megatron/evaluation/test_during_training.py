"""Tasks between training steps: the scores of the checkpoint saved then, and a training that does not notice."""

import json
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("lm_eval", reason="lm_eval is installed with the extra `eval`")

from megatron.errors import SettingsError
from megatron.evaluation.during_training import scoring_of_tasks
from megatron.evaluation.evaluate import evaluate
from megatron.evaluation.local_tasks import write_local_tasks
from megatron.export.verify import sample_text
from megatron.monitor.events import read_events
from megatron.neox_arguments.load import arguments_from_texts
from megatron.training.pretrain import pretrain
from tests.helpers.processes import run_ranks
from tests.helpers.tiny_run import tiny_settings, write_tiny_data

KINDS = ("choice", "rolling", "generate")


def train(settings: dict[str, Any]) -> None:
    args = arguments_from_texts([("a.yml", json.dumps(settings))], world_size=2)
    pretrain(args, scoring_of_tasks(args) if args.eval_tasks_interval else None)


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("during")
    words = sample_text().split()
    texts = [" ".join(words[start : start + 14]) for start in range(0, 70, 14)]
    write_local_tasks(folder, texts, context_words=6, continuation_words=2, questions=4)
    return tiny_settings(
        write_tiny_data(folder),
        train_iters=4,
        hidden_dropout=0.1,
        checkpoint_factor=2,
        eval_iters=0,
        save=str(folder / "run"),
        eval_tasks=[str(folder / f"local_{kind}.yaml") for kind in KINDS],
    )


PIPELINE = {"pipe_parallel_size": 2}
SEQUENCE = {"model_parallel_size": 2, "sequence_parallel": True}


def trained(settings: dict[str, Any]) -> list[dict[str, Any]]:
    run_ranks(train, 2, settings)
    return list(read_events(Path(settings["save"]) / "events.jsonl"))


def losses(events: list[dict[str, Any]]) -> list[float]:
    return [event["loss"] for event in events if event["kind"] == "step"]


@pytest.mark.multiprocess
@pytest.mark.parametrize(
    "layout", [PIPELINE, pytest.param(SEQUENCE, marks=pytest.mark.exhaustive)], ids=["pipeline", "sequence"]
)
def test_scores_are_those_of_the_checkpoint_and_training_goes_on_as_without(
    settings: dict[str, Any], layout: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    watched = settings | layout | {"save": str(tmp_path / "watched"), "eval_tasks_interval": 2}
    events = trained(watched)
    if layout is PIPELINE:
        plain = losses(trained(settings | layout | {"save": str(tmp_path / "plain")}))
        assert losses(events) == plain and len(plain) == 4
    scored = [event for event in events if event["kind"] == "tasks"]
    assert [event["iteration"] for event in scored] == [2, 4]
    assert scored[0]["scores"] != scored[1]["scores"]
    alone = {key: value for key, value in watched.items() if key not in layout} | {"load": watched["save"]}
    for event in scored:
        capsys.readouterr()
        of_then = alone | {"iteration": event["iteration"], "data_path": None}
        evaluate(arguments_from_texts([("a.yml", json.dumps(of_then))]))
        for line in map(json.loads, capsys.readouterr().out.splitlines()):
            numbers = {name: value for name, value in line["scores"].items() if isinstance(value, int | float)}
            assert event["scores"][line["task"]] == pytest.approx(numbers, rel=1e-5)


def test_an_unknown_task_is_found_before_training(settings: dict[str, Any]) -> None:
    changes = {"eval_tasks": [*settings["eval_tasks"], "piqa", "no_such_task"], "eval_tasks_interval": 2}
    with pytest.raises(SettingsError, match=r"knows no task 'no_such_task'\."):
        scoring_of_tasks(arguments_from_texts([("a.yml", json.dumps(settings | changes))]))

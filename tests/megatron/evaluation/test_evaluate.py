"""eval.py's losses are those of the definition; the command line of stock lm_eval takes the exported folder."""

import json
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from megatron.data.from_args import datasets_from_args
from megatron.data.indexed_dataset import IndexedDatasetWriter
from megatron.errors import CheckpointError, SettingsError
from megatron.evaluation.evaluate import evaluate
from megatron.evaluation.local_tasks import write_local_tasks
from megatron.evaluation.tasks import task_names
from megatron.export.export import export_checkpoint, open_source
from megatron.inference.load import load_model
from megatron.neox_arguments.arguments import NeoXArgs
from megatron.neox_arguments.load import arguments_from_texts
from megatron.tokenizer.tokenizer import build_tokenizer
from tests.megatron.export.tiny_checkpoint import write_checkpoint


def _texts() -> list[str]:
    from pydoc_data.topics import topics

    return [text for text in topics.values() if 700 < len(text) < 3000][:10]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("save")
    step = write_checkpoint(folder)
    tokenizer = build_tokenizer("HFTokenizer", folder / "tokenizer.json")
    with IndexedDatasetWriter(folder / "topics", vocab_size=tokenizer.vocab_size) as writer:
        for text in _texts():
            writer.add_document([*tokenizer.tokenize(text), tokenizer.eod])
    return step


def _args(checkpoint: Path, **changes: object) -> NeoXArgs:
    stored = json.loads((checkpoint / "state.json").read_text())["settings"]["texts"][0][1]
    own = {"load": str(checkpoint.parent), "data_path": str(checkpoint.parent / "topics"), "split": "6,2,2"}
    return arguments_from_texts([("tiny.yml", json.dumps(json.loads(stored) | own | {"eval_iters": 3} | changes))])


def _lines(capsys: pytest.CaptureFixture[str]) -> list[dict]:
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def test_loss_is_the_mean_over_the_first_samples(checkpoint: Path, capsys: pytest.CaptureFixture[str]) -> None:
    args = _args(checkpoint)
    evaluate(args)
    lines = _lines(capsys)
    assert [(line["set"], line["iteration"]) for line in lines] == [("validation", 7), ("test", 7)]
    tokenizer = build_tokenizer("HFTokenizer", args.vocab_file)
    model = load_model(args)
    data = datasets_from_args(args, tokenizer).require("valid")
    batches = data.batches(consumed_samples=0, micro_batch_size=6, dp_rank=0, dp_size=1)
    batch = next(batches)
    logits = model(batch.tokens).double()
    expected = float(F.cross_entropy(logits.flatten(0, 1), batch.labels.flatten()))
    assert lines[0]["samples"] == 6
    assert lines[0]["tokens"] == 6 * 96
    assert lines[0]["loss"] == pytest.approx(expected, rel=1e-5)
    assert lines[0]["perplexity"] == pytest.approx(math.exp(expected), rel=1e-4)


def test_the_untrained_model_and_the_results_file(
    checkpoint: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    evaluate(_args(checkpoint, eval_results_prefix=str(tmp_path / "new" / "a")), untrained=True)
    lines = _lines(capsys)
    assert {(line["iteration"], line["checkpoint"]) for line in lines} == {(0, None)}
    assert lines[0]["loss"] == pytest.approx(math.log(304), abs=0.2)
    written = list((tmp_path / "new").glob("a_eval_results_*.json"))
    assert json.loads(written[0].read_text())["results"] == lines


@pytest.mark.slow
def test_the_command(checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "my_model.yml").write_text(_args(checkpoint).texts[0][1])
    root = Path(__file__).resolve().parents[3]
    command = [sys.executable, str(root / "deepy.py"), "eval.py", "my_model.yml", "--", "--untrained"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    evaluate(_args(checkpoint), untrained=True)
    printed = [json.loads(line) for line in done.stdout.splitlines()]
    assert [line["loss"] for line in printed] == pytest.approx([line["loss"] for line in _lines(capsys)], rel=1e-5)


def test_mistakes_are_named(checkpoint: Path, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="Nothing to evaluate"):
        evaluate(_args(checkpoint, data_path=None))
    with pytest.raises(CheckpointError, match="no checkpoint of iteration 8"):
        evaluate(_args(checkpoint, iteration=8))
    with pytest.raises(SettingsError, match=r"gone\.yaml does not exist"):
        task_names(["piqa", str(tmp_path / "gone.yaml")])
    (tmp_path / "odd.yaml").write_text("output_type: multiple_choice")
    with pytest.raises(SettingsError, match="no key `task`"):
        task_names([str(tmp_path / "odd.yaml")])


NAMES = [f"local_{kind}" for kind in ("choice", "rolling", "generate")]


def _stock_lm_eval(folder: Path, tasks: Path, batch_size: int, output: Path) -> tuple[dict, dict[str, list[dict]]]:
    """Aggregated results, and the log of every request, from the command line of lm_eval."""
    command = [
        sys.executable, "-m", "lm_eval", "--model", "hf", "--model_args", f"pretrained={folder},trust_remote_code=True",
        "--tasks", ",".join(NAMES), "--include_path", str(tasks), "--device", "cpu",
        "--batch_size", str(batch_size), "--output_path", str(output), "--log_samples",
    ]  # fmt: skip
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1"}
    finished = subprocess.run(command, env=environment, cwd=folder, capture_output=True, text=True, timeout=600)
    assert finished.returncode == 0, finished.stderr[-3000:]
    results = json.loads(next(output.glob("*/results_*.json")).read_text())["results"]
    samples = {}
    for name in NAMES:
        rows = next(output.glob(f"*/samples_{name}_*.jsonl")).read_text().splitlines()
        samples[name] = sorted((json.loads(row) for row in rows), key=lambda row: row["doc_id"])
    return results, samples


def _lm_eval_here(folder: Path, tasks: Path, batch_size: int) -> tuple[dict, dict[str, list[dict]]]:
    """The same in this process: it need not import everything again, nor read lm_eval's own tasks."""
    import lm_eval
    from lm_eval.tasks import TaskManager

    found = lm_eval.simple_evaluate(
        model="hf",
        model_args={"pretrained": str(folder), "trust_remote_code": True},
        tasks=NAMES,
        task_manager=TaskManager(include_path=str(tasks), include_defaults=False),
        batch_size=batch_size,
        device="cpu",
        bootstrap_iters=0,
        log_samples=True,
    )
    samples = json.loads(json.dumps(found["samples"], default=str))
    return found["results"], {name: sorted(samples[name], key=lambda row: row["doc_id"]) for name in NAMES}


@pytest.mark.slow
def test_stock_lm_eval_scores_the_folder_alike_for_any_batch_size(checkpoint: Path, tmp_path: Path) -> None:
    write_local_tasks(tmp_path / "tasks", _texts(), context_words=12, continuation_words=6)
    folder = tmp_path / "out"
    export_checkpoint(open_source(checkpoint), folder)
    one, by_one = _lm_eval_here(folder, tmp_path / "tasks", 1)
    four, by_four = _stock_lm_eval(folder, tmp_path / "tasks", 4, tmp_path / "four")
    for left, right in zip(by_one["local_generate"], by_four["local_generate"], strict=True):
        assert left["resps"] == right["resps"]
    for name in ("local_choice", "local_rolling"):
        for left, right in zip(by_one[name], by_four[name], strict=True):
            assert _numbers(left["resps"]) == pytest.approx(_numbers(right["resps"]), rel=1e-5)

    for name, scores in one.items():
        for metric, value in scores.items():
            if isinstance(value, float) and "stderr" not in metric:
                assert four[name][metric] == pytest.approx(value, rel=1e-5)


def _numbers(content: object) -> list[float]:
    if isinstance(content, list | tuple):
        return [number for entry in content for number in _numbers(entry)]
    try:
        return [float(str(content))]
    except ValueError:
        return []


def test_loss_needs_no_gradient_and_leaves_the_model_alone(checkpoint: Path) -> None:
    model = load_model(_args(checkpoint))
    assert not model.training
    assert not any(parameter.requires_grad for parameter in model.parameters())
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}

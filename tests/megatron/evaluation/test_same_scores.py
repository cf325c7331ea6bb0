"""One model, three ways to lm_eval: the checkpoint itself, its export, a stock model made sparse. Same scores.

Also the checkpoint on tensor and on pipeline ranks.
"""

import json
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("lm_eval", reason="lm_eval is installed with the extra `eval`")

from megatron.evaluation.evaluate import evaluate
from megatron.evaluation.local_tasks import write_local_tasks
from megatron.export.export import export_checkpoint, open_source
from megatron.export.verify import sample_text
from megatron.neox_arguments.load import arguments_from_texts
from tests.helpers.processes import run_ranks
from tests.megatron.export.tiny_checkpoint import SETTINGS, write_checkpoint

KINDS = ("choice", "rolling", "generate")
RULE = {"init_tokens": SETTINGS["init_tok_max_idx"] + 1, "window": 12, "separator_characters": ".,\n"}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """checkpoint: sparse; dense: the same weights, full attention; tasks: uneven lengths, some beyond 96 tokens."""
    folder = tmp_path_factory.mktemp("scores")
    write_checkpoint(folder / "checkpoint")
    write_checkpoint(folder / "dense", {"USE_ORIGINAL_FULL_ATTEN": True, "separators": None})
    words = sample_text().split()
    starts = [0, 40, 70, 130, 170, 260]
    texts = [" ".join(words[start : start + 25 + 5 * number]) for number, start in enumerate(starts)]
    write_local_tasks(folder / "tasks", texts, context_words=15, continuation_words=4)
    return folder


def in_tree(place: Path, **changes: Any) -> dict[str, dict[str, Any]]:
    """Task -> metric -> value, from the results file of eval.py's own function, run by whatever ranks there are."""
    settings = SETTINGS | {
        "vocab_file": str(place / "checkpoint" / "tokenizer.json"),
        "load": str(place / "checkpoint"),
        "eval_tasks": [str(place / "tasks" / f"local_{kind}.yaml") for kind in KINDS],
        "eval_results_prefix": str(place / "results" / "-".join(map(str, changes.values()))),
    }
    world_size = changes.pop("world_size", None)
    evaluate(arguments_from_texts([("a.yml", json.dumps(settings | changes))], world_size=world_size))
    if not (place / "results").is_dir():
        return {}
    written = sorted((place / "results").glob("*.json"), key=lambda path: path.stat().st_mtime)[-1]
    return {line["task"]: line["scores"] for line in json.loads(written.read_text())["results"]}


def stock(place: Path, model: str, folder: Path, batch_size: int, **arguments: Any) -> dict[str, dict[str, Any]]:
    import lm_eval
    from lm_eval.tasks import TaskManager

    import sepllm.hf.lm_eval_model  # noqa: F401  # registers hf-sepllm

    results = lm_eval.simple_evaluate(
        model=model,
        model_args={"pretrained": str(folder)} | arguments,
        tasks=[f"local_{kind}" for kind in KINDS],
        task_manager=TaskManager(include_path=str(place / "tasks"), include_defaults=False),
        batch_size=batch_size,
        device="cpu",
        bootstrap_iters=0,
        log_samples=False,
    )
    return dict(results["results"])


def assert_same(found: dict[str, dict[str, Any]], expected: dict[str, dict[str, Any]]) -> None:
    assert set(expected) == {f"local_{kind}" for kind in KINDS}
    for task, metrics in expected.items():
        values = {k: v for k, v in metrics.items() if isinstance(v, float) and "stderr" not in k}
        assert {key: found[task][key] for key in values} == pytest.approx(values, rel=1e-5), task


@pytest.mark.slow
def test_checkpoint_export_and_stock_model_under_the_rule_score_alike(place: Path) -> None:
    export_checkpoint(open_source(place / "checkpoint" / "global_step7"), place / "exported", verify=False)
    export_checkpoint(open_source(place / "dense" / "global_step7"), place / "stock", architecture="neox", verify=False)
    expected = in_tree(place, eval_batch_size=1)
    assert_same(in_tree(place, eval_batch_size=4), expected)
    for batch_size in (1, 4):
        assert_same(stock(place, "hf", place / "exported", batch_size, trust_remote_code=True), expected)
        assert_same(stock(place, "hf-sepllm", place / "stock", batch_size, **RULE), expected)
    dense = stock(place, "hf", place / "stock", 4)
    assert dense["local_rolling"]["word_perplexity,none"] != pytest.approx(
        expected["local_rolling"]["word_perplexity,none"], rel=1e-3
    )


def on_ranks(place: str, changes: dict[str, Any]) -> dict[str, Any]:
    return in_tree(Path(place), world_size=2, eval_parallel=True, **changes)


@pytest.mark.multiprocess
@pytest.mark.parametrize(
    "layout",
    [
        {"pipe_parallel_size": 2},
        pytest.param({"model_parallel_size": 2}, marks=pytest.mark.exhaustive),
        pytest.param({}, marks=pytest.mark.exhaustive),
    ],
    ids=str,
)
def test_ranks_score_as_one_process(place: Path, layout: dict[str, int]) -> None:
    """Tensor ranks, pipeline ranks, and two replicas that share the questions."""
    expected = in_tree(place, eval_batch_size=3)
    assert_same(run_ranks(on_ranks, 2, str(place), layout)[0], expected)

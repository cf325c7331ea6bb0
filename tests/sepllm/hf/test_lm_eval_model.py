"""`hf-sepllm`: mask and evicting cache score alike at every batch size; a wide window is the stock model."""

import json
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("lm_eval", reason="lm_eval is installed with the extra `eval`")

from megatron.evaluation.local_tasks import write_local_tasks
from megatron.export.verify import sample_text
from sepllm.errors import ConfigError
from sepllm.hf.lm_eval_model import SepLLMModel
from tests.megatron.importing.hf_models import write_hf_model

RULE = {"init_tokens": 2, "window": 6, "max_separators": 3, "separator_characters": ".,\n"}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("lm_eval")
    model = write_hf_model(folder / "model", "llama", max_position_embeddings=512)
    end = "<|endoftext|>"
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": end, "pad_token": end, "bos_token": end}
    (model / "tokenizer_config.json").write_text(json.dumps(settings))
    words = sample_text().split()
    texts = [" ".join(words[start : start + 40]) for start in range(0, 240, 40)]
    write_local_tasks(folder / "tasks", texts, context_words=15, continuation_words=4, questions=5)
    return folder


def scores(place: Path, model: str, batch_size: int = 1, **arguments: Any) -> dict[str, dict[str, float]]:
    import lm_eval
    from lm_eval.tasks import TaskManager

    names = ["local_choice", "local_rolling", "local_generate"]
    results = lm_eval.simple_evaluate(
        model=model,
        model_args={"pretrained": str(place / "model")} | arguments,
        tasks=names,
        task_manager=TaskManager(include_path=str(place / "tasks"), include_defaults=False),
        batch_size=batch_size,
        device="cpu",
        bootstrap_iters=0,
        log_samples=True,
    )
    found: dict[str, dict[str, float]] = {}
    for name in names:
        metrics = results["results"][name].items()
        found[name] = {key: value for key, value in metrics if isinstance(value, float)}
        found[name]["answers"] = [sample["filtered_resps"] for sample in results["samples"][name]]
    return found


def assert_same(found: dict[str, dict[str, Any]], expected: dict[str, dict[str, Any]]) -> None:
    for task, metrics in expected.items():
        answers = found[task].pop("answers"), metrics.pop("answers")
        if task == "local_generate":
            assert answers[0] == answers[1]
        assert found[task] == pytest.approx(metrics, rel=1e-4)
        metrics["answers"] = answers[1]


@pytest.mark.slow
def test_mask_cache_and_batches_agree(place: Path) -> None:
    expected = scores(place, "hf-sepllm", **RULE)
    assert_same(scores(place, "hf-sepllm", batch_size=4, **RULE), expected)
    for batch_size in (1, 4):
        assert_same(scores(place, "hf-sepllm", batch_size=batch_size, evict=True, **RULE), expected)
    dense = scores(place, "hf")
    assert dense["local_rolling"]["word_perplexity,none"] != pytest.approx(
        expected["local_rolling"]["word_perplexity,none"], rel=1e-3
    )
    assert_same(scores(place, "hf-sepllm", **RULE | {"window": 4096, "max_separators": None}), dense)


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({}, "320 tokens"),
        ({"separators": "13;x"}, "13;x"),
        ({"separators": [13], "separator_characters": "."}, "say the same"),
    ],
)
def test_what_cannot_be_meant(place: Path, arguments: dict[str, Any], named: str) -> None:
    with pytest.raises(ConfigError, match=named):
        SepLLMModel(pretrained=str(place / "model"), device="cpu", **arguments)


def test_ids_may_be_written_as_text(place: Path) -> None:
    model = SepLLMModel(pretrained=str(place / "model"), device="cpu", separators="13;15+20", evict="True")
    assert model.rule.separators == (13, 15, 20) and model.evict


def test_the_command_knows_the_model(monkeypatch: pytest.MonkeyPatch) -> None:
    """`sepllm-lm-eval` is lm_eval's command; by then `hf-sepllm` is registered."""
    from lm_eval import __main__ as command
    from lm_eval.api.registry import get_model

    from sepllm.hf import lm_eval_model

    called = []
    monkeypatch.setattr(command, "cli_evaluate", lambda: called.append(get_model("hf-sepllm")))
    lm_eval_model.main()
    assert called == [SepLLMModel]

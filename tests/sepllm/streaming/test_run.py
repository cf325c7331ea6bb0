"""A run on disk: what it writes, that it goes on where it stopped, and that it never overwrites another."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch

from sepllm.config import SepConfig
from sepllm.errors import ConfigError
from sepllm.streaming import run as run_module
from sepllm.streaming.report import plot, read_runs, table
from sepllm.streaming.run import StreamRun
from sepllm.streaming.score import StreamScorer, stream_nll
from tests.sepllm.streaming.tiny_models import random_ids, tiny_model

CONFIG = SepConfig(separators=[3, 7, 11], init_tokens=2, window=8, max_separators=4, capacity=30)
DOCUMENTS = [random_ids(50, 1), random_ids(1, 2), random_ids(200, 3), random_ids(90, 4)]
INPUTS = torch.cat([ids[:-1] for ids in DOCUMENTS])
TARGETS = torch.cat([ids[1:] for ids in DOCUMENTS])


def stream_run(out: Path, max_tokens: int = 10_000, **about: Any) -> StreamRun:
    scorer = StreamScorer(tiny_model("llama"), CONFIG)
    return StreamRun(scorer, out, {"model": "tiny"} | about, max_tokens, lambda line: None)


def logged(out: Path) -> torch.Tensor:
    return torch.tensor([float(line) for line in (out / "log.txt").read_text().splitlines()], dtype=torch.float64)


def test_documents_follow_each_other_in_one_cache(tmp_path: Path) -> None:
    expected = StreamScorer(tiny_model("llama"), CONFIG).feed(INPUTS, TARGETS)
    done = stream_run(tmp_path).score(DOCUMENTS, resume=False)
    assert done.tokens == len(expected) and done.documents == 4
    assert (logged(tmp_path) - expected).abs().max() < 1e-7
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["perplexity"] == pytest.approx(math.exp(float(expected.mean())))
    assert float((tmp_path / "ppl.txt").read_text()) == pytest.approx(report["perplexity"])
    assert report["most_keys_seen"] == 31 and report["curve"][-1][0] == len(expected)


def test_a_number_of_tokens_ends_the_run_inside_a_document(tmp_path: Path) -> None:
    done = stream_run(tmp_path, max_tokens=100).score(DOCUMENTS, resume=False)
    assert done.tokens == 100 == len(logged(tmp_path))


@pytest.mark.parametrize("stop", [49, 100, 260])
def test_a_killed_run_goes_on_without_a_difference(tmp_path: Path, stop: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_module, "_PIECE", 20)
    monkeypatch.setattr(run_module, "_SAVE_SECONDS", 0.0)
    stream_run(tmp_path / "whole").score(DOCUMENTS, resume=False)
    killed = stream_run(tmp_path / "killed")
    feed, fed = killed.scorer.feed, 0

    def dying(inputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        nonlocal fed
        fed += len(inputs)
        if fed > stop:
            raise KeyboardInterrupt
        return feed(inputs, targets)

    monkeypatch.setattr(killed.scorer, "feed", dying)
    with pytest.raises(KeyboardInterrupt):
        killed.score(DOCUMENTS, resume=False)
    with (tmp_path / "killed" / "log.txt").open("a") as log:
        log.write("1.5\n2.5\n")  # losses written after the last state
    stream_run(tmp_path / "killed").score(DOCUMENTS, resume=True)
    assert (logged(tmp_path / "killed") - logged(tmp_path / "whole")).abs().max() < 1e-8
    reports = [json.loads((tmp_path / name / "report.json").read_text()) for name in ("whole", "killed")]
    for key in ("tokens", "documents", "average_keys_seen", "most_keys_seen", "cache_bytes"):
        assert reports[0][key] == reports[1][key]


def test_more_tokens_of_a_finished_run(tmp_path: Path) -> None:
    stream_run(tmp_path, max_tokens=100).score(DOCUMENTS, resume=False)
    stream_run(tmp_path).score(DOCUMENTS, resume=True)
    expected = StreamScorer(tiny_model("llama"), CONFIG).feed(INPUTS, TARGETS)
    assert (logged(tmp_path) - expected).abs().max() < 1e-7


def test_another_runs_folder_is_left_alone(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="nothing to resume"):
        stream_run(tmp_path).score(DOCUMENTS, resume=True)
    stream_run(tmp_path, max_tokens=60).score(DOCUMENTS, resume=False)
    before = (tmp_path / "log.txt").read_bytes()
    with pytest.raises(ConfigError, match="already holds a run"):
        stream_run(tmp_path).score(DOCUMENTS, resume=False)
    with pytest.raises(ConfigError, match="window was None, is 9"):
        stream_run(tmp_path, window=9).score(DOCUMENTS, resume=True)
    assert (tmp_path / "log.txt").read_bytes() == before


def test_runs_are_compared(tmp_path: Path) -> None:
    for name in ("first", "second"):
        stream_run(tmp_path / name, max_tokens=120).score(DOCUMENTS, resume=False)
    runs = read_runs([tmp_path / "first", tmp_path / "second"])
    assert "| first | 120 |" in table(runs)
    assert plot(runs, tmp_path / "pictures" / "both.png").stat().st_size > 10_000
    with pytest.raises(ConfigError, match=r"report\.json does not exist"):
        read_runs([tmp_path])


def test_losses_are_those_of_the_function(tmp_path: Path) -> None:
    stream_run(tmp_path).score([DOCUMENTS[2]], resume=False)
    assert (logged(tmp_path) - stream_nll(tiny_model("llama"), DOCUMENTS[2], CONFIG)).abs().max() < 1e-7

"""`benchmarks/attention.py` runs on a tiny text, checks what it times, and writes what it found and where."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from benchmarks import attention, attention_cases
from benchmarks.attention_cases import Case


@pytest.fixture(autouse=True)
def _threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def _run(out: Path, *more: str) -> dict:
    assert attention.main(["--seq", "300", "--window", "16", "--heads", "2", "--seconds", "0.01", *more]) == 0
    return json.loads(out.read_text(encoding="utf-8"))


def test_a_tiny_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "results" / "attention.json"
    report = _run(out, "--no-memory", "--out", str(out))
    by_case = {entry["case"]: entry for entry in report["results"]}
    assert by_case.keys() == {"causal", "dense_mask", "packed", "original"}
    assert by_case["packed"]["error"]["value"] < 1e-12
    assert 0.1 < by_case["packed"]["kept"] < 0.4
    assert all(by_case[name]["cpu_ms"] > 0 for name in ("causal", "dense_mask", "packed"))
    assert by_case["original"]["prepare"]["cpu_ms"] > 0
    assert {"cpu", "torch", "commit", "date", "argv"} <= report["environment"].keys()
    assert "random separators, rate 0.12" in report["text"]
    assert "| 300 | packed |" in capsys.readouterr().out


@pytest.mark.slow
def test_peak_memory_is_measured_in_processes_of_their_own(tmp_path: Path) -> None:
    out = tmp_path / "attention.json"
    report = _run(out, "--seq", "1500", "--original-up-to", "0", "--out", str(out))
    added = {entry["case"]: entry["added_at_peak_mib"] for entry in report["results"]}
    assert added["dense_mask"] > added["packed"] > 0


def test_a_wrong_answer_has_no_speed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    packed = attention_cases.CASES["packed"]
    wrong = Case(packed.prepare, lambda q, k, v, plan: packed.attend(q, k, v, plan) * 1.001)
    monkeypatch.setitem(attention_cases.CASES, "packed", wrong)
    with pytest.raises(SystemExit, match="wrong at seq 300"):
        _run(tmp_path / "never.json", "--no-memory")


def test_real_text_needs_its_tokenizer(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        attention.main(["--text", "books"])
    assert "--text and --tokenizer belong together" in capsys.readouterr().err

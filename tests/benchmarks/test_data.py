"""`benchmarks/data.py` runs at toy size, checks results before it times anything, and writes what it found."""

import json
from pathlib import Path

import pytest

from benchmarks import data, data_preprocess
from benchmarks.commands import Runs
from tests.helpers.tiny_tokenizer import write_tokenizer_json


@pytest.mark.slow
@pytest.mark.multiprocess
def test_a_tiny_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    vocabulary = write_tokenizer_json(tmp_path / "tokenizer.json")
    flags = ["--tokenizer", vocabulary, "--megabytes", 0.2, "--documents", 500, "--tokens", 2_000_000]
    flags += ["--file-tokens", 500_000, "--repeats", 1, "--threads", 2, "--folder", tmp_path]
    out = tmp_path / "results" / "data.json"
    assert data.main([*map(str, flags), "--out", str(out)]) == 0
    report = json.loads(out.read_text())
    assert set(data.PARTS) == set(report)
    for part in data.PARTS:
        assert all(value > 0 for name, value in report[part]["goals"].items() if "cold" not in name)
    assert report["preprocess"]["encoder"].startswith("encoder: ")
    assert "ours over bare slice" in capsys.readouterr().out
    assert sorted(path.name for path in tmp_path.iterdir()) == ["results", "tokenizer.json"]


def test_token_files_that_differ_are_not_timed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(commands: dict[str, list[str]], repeats: int, environment: dict[str, str]) -> dict[str, Runs]:
        for number in range(len(commands)):
            (tmp_path / f"out{number}_text_document.bin").write_bytes(b"1" if number else b"2")
        return {}

    monkeypatch.setattr(data_preprocess, "measure", wrong)
    with pytest.raises(SystemExit, match="the token files differ"):
        data_preprocess.measure_preprocessing(tmp_path, None, tmp_path / "tokenizer.json", 0.01, 1, 1)


def test_the_corpus_is_cut_from_books_of_the_size_asked_for(tmp_path: Path) -> None:
    (tmp_path / "book.txt").write_text("Call me Ishmael. " * 1000)
    path = tmp_path / "corpus.jsonl"
    data_preprocess.write_corpus(path, tmp_path, 50_000)
    texts = [json.loads(line)["text"] for line in path.read_text().splitlines()]
    assert 50_000 <= sum(map(len, texts)) < 250_000
    assert all(text in "Call me Ishmael. " * 1000 for text in texts)

"""inspect_dataset.py: figures against a plain count, the kept share against the rule, planted damage told."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from megatron.data.indexed_dataset import IndexedDatasetWriter
from sepllm.attention.rule import keep_mask
from sepllm.config import SepConfig
from tests.tools.datasets.running import call_tool, refused, run_tool

TOKENIZER = ["--tokenizer-type", "CharLevelTokenizer"]


def write_texts(prefix: Path, texts: list[str]) -> Path:
    with IndexedDatasetWriter(prefix, vocab_size=512) as writer:
        for text in texts:
            writer.add_document([*text.encode(), 0] if text else [])
    return prefix


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    return write_texts(
        tmp_path / "set",
        ["The fox, as ever, jumps. " * 9, "Another text; it is short.", "", "Another text; it is short."],
    )


def test_figures_and_samples(corpus: Path) -> None:
    done = run_tool("tools/datasets/inspect_dataset.py", corpus, *TOKENIZER, "--sample-tokens", 7)
    assert done.returncode == 0, done.stderr
    for words in (
        "4 documents, 1 empty, 280 tokens",
        "shortest 0, median 27, p90",
        "longest 226",
        "LOOK: documents equal to an earlier one: 33.33% (3 = 1)",
        "--- document 0, 226 tokens\nThe fox\n",
    ):
        assert words in done.stdout, (words, done.stdout)


def test_kept_share_is_that_of_the_rule(corpus: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flags = ["--json", "--windows", 4, 16, "--seq-length", 70, "--rows", 3]
    call_tool("tools/datasets/inspect_dataset.py", corpus, *TOKENIZER, *flags)
    report = json.loads(capsys.readouterr().out)
    ids = np.fromfile(f"{corpus}.bin", "<u2").astype(np.int64)
    separators = sorted(report["separators"]["ids"])
    assert separators == sorted(b".,?!;: \t\n")
    assert report["separators"]["share"] == pytest.approx(np.isin(ids, separators).mean())
    assert report["eod_share"] == pytest.approx(3 / 280)
    rows = torch.from_numpy(np.stack([ids[start : start + 70] for start in (0, 105, 210)]))
    for window in (4, 16):
        mask = keep_mask(SepConfig(separators=separators, init_tokens=3, window=window), rows)
        expected = mask.sum() / (3 * 70 * 71 / 2)
        assert report["separators"]["kept"][str(window)] == pytest.approx(float(expected))
    assert report["lengths"]["mean"] == 70


def test_without_a_tokenizer(corpus: Path, capsys: pytest.CaptureFixture[str]) -> None:
    call_tool("tools/datasets/inspect_dataset.py", corpus, "--separator-token-ids", 32, 46)
    shown = capsys.readouterr().out
    assert "separators: " in shown and "---" not in shown


def test_planted_damage_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    texts = [f"A good text, number {number}, with nothing wrong.\nAnd a line." for number in range(20)]
    texts[3] = json.dumps(json.dumps('JSON twice:\n\u00e9 and\n"quotes"\n'))
    texts[9] = "cafÃ© and itâ€™s"
    call_tool("tools/datasets/inspect_dataset.py", write_texts(tmp_path / "set", texts), *TOKENIZER)
    shown = capsys.readouterr().out
    assert "LOOK: escapes 5.0%" in shown and "(first: document 3)" in shown
    assert "LOOK: mojibake 5.0%" in shown and "(first: document 9)" in shown
    assert "entities" not in shown


def test_part_of_a_large_set(tmp_path: Path) -> None:
    prefix = write_texts(tmp_path / "set", [f"document {number} of many" for number in range(2000)])
    done = run_tool("tools/datasets/inspect_dataset.py", prefix, "--max-tokens", 5000)
    assert done.returncode == 0, done.stderr
    assert "2,000 documents" in done.stdout and "(looked at" in done.stdout


def test_damage_and_mistakes(corpus: Path, tmp_path: Path) -> None:
    refused(run_tool("tools/datasets/inspect_dataset.py", tmp_path / "none"), 3, "No data set at")
    refused(run_tool("tools/datasets/inspect_dataset.py", corpus, "--windows", 0), 2, "expected 1 or more")
    with IndexedDatasetWriter(tmp_path / "labels", dtype="int32") as writer:
        writer.add_document([1, -100])
    refused(
        run_tool("tools/datasets/inspect_dataset.py", tmp_path / "labels"),
        3,
        "labels.bin, byte 4: id -100 at token 1 is negative",
    )
    with IndexedDatasetWriter(tmp_path / "empty", dtype="int32"):
        pass
    assert run_tool("tools/datasets/inspect_dataset.py", tmp_path / "empty", *TOKENIZER).returncode == 0

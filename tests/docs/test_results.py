"""The figures of docs/results.md are those of the files that the measurements wrote."""

import json
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "results.md").read_text("utf-8")
STUDY = ROOT / "training_examples" / "paper_ordering" / "results"
NAMES = {
    "full": "full",
    "sepllm-ht": "SepLLM H/T",
    "sepllm": "SepLLM",
    "fixllm": "FixLLM",
    "streaming": "StreamingLLM",
}
STEPS = ("280", "560", "700", "980")


def read(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(path.read_text("utf-8"))
    return found


def test_losses_under_other_positions() -> None:
    found = read(STUDY / "positions.json")
    rows = []
    for positions, curves in found["curves"].items():
        for model, curve in curves.items():
            losses = [f"{curve[step]:.3f}" if step in curve else "-" for step in STEPS]
            rows.append(f"| {positions} | {NAMES[model]} | {' | '.join(losses)} |")
    table = PAGE[PAGE.index("| positions |") :].split("\n\n")[0].splitlines()
    assert table[2:] == rows
    masks = found["full attention, 8 of 32 dimensions, read with another mask"]
    assert f"loses {masks['streaming']:.3f} instead of {masks['full']:.3f}" in PAGE


def test_seconds() -> None:
    attention = read(ROOT / "benchmarks" / "results" / "attention-cpu-books.json")["speed_up_of_packed"]["causal"]
    for words, seq in (("{} times as fast at 2k", 2048), ("{} times at 8k", 8192), ("and {} times\nat 16k", 16384)):
        assert words.format(round(attention[str(seq)], 1)) in PAGE
    step = read(ROOT / "benchmarks" / "results" / "attention-training-cpu.json")["speed_up_of_packed"]
    assert f"at 4096 tokens {step:.1f} times" in PAGE
    cases = read(ROOT / "benchmarks" / "results" / "training-step-4096-cpu.json")["comparisons"][0]["results"]
    seconds = {case["case"]: case["total_ms"] for case in cases}
    assert f"{seconds['ours, full'] / seconds['ours, sepllm']:.2f} times (`training-step-4096-cpu.json`)" in PAGE


def test_streams() -> None:
    runs = read(ROOT / "benchmarks" / "results" / "streaming-books-4m.json")["runs"]
    sepllm, streaming = (round(runs[name]["perplexity"], 1) for name in ("sepllm", "streamingllm"))
    assert f"SepLLM {sepllm}, StreamingLLM {streaming}" in PAGE

"""The figures of docs/results.md are those of the files that the measurements wrote."""

import json
import re
import subprocess
import sys
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
    masks = found["other_masks"]
    assert f"loses {masks['streaming']:.3f} instead of {masks['full']:.3f}" in PAGE
    behind = {
        place: found["in_the_row"]["full"][place] - loss for place, loss in found["in_the_row"]["streaming"].items()
    }
    assert f"by {behind['16-32']:.3f} nats at the tokens 16 to 32" in PAGE
    assert f"by {behind['512-1024']:.3f} in the last half" in PAGE
    small = {model: found["quarter_batches"][model]["1.72"] for model in ("full", "streaming")}
    assert f"full {small['full']:.3f}, StreamingLLM {small['streaming']:.3f}" in PAGE
    rotary, alibi = (found["curves"][positions] for positions in ("rotary, 32 of 32 dimensions", "ALiBi"))
    gains = {model: rotary[model]["280"] - alibi[model]["280"] for model in rotary}
    assert min(gains.values()) > 0 and max(gains, key=lambda model: gains[model]) == "full"
    assert f"({gains['full']:.2f} nats, StreamingLLM by {gains['streaming']:.2f})" in PAGE
    assert all(alibi["full"][step] < loss for step, loss in alibi["streaming"].items())


def test_where_the_study_stands() -> None:
    found = read(STUDY / "positions.json")
    losses = {model: curve["980"] for model, curve in found["curves"]["ALiBi"].items()}
    said = [f"{NAMES[model].removeprefix('SepLLM ')} {loss:.3f}" for model, loss in losses.items()]
    assert all(words in PAGE.replace("\n", " ") for words in said)
    second = found["second_seed"]
    words = f"SepLLM at {second['sepllm']['840']:.3f}, StreamingLLM at {second['streaming']['840']:.3f}"
    assert words in PAGE.replace("\n", " ")


def test_flops() -> None:
    def flops(attention: str) -> float:
        files = ["configs/models/160m.yml", f"configs/attention/{attention}.yml"]
        command = [sys.executable, "deepy.py", "plan", *files]
        text = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
        return float(re.findall(r"FLOPs +(\S+) a step", text)[0])

    full = flops("full")
    for attention in ("streaming-n64", "sepllm-n64", "sepllm-n64-ht"):
        assert f"{100 * flops(attention) / full:.1f} % |" in PAGE


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

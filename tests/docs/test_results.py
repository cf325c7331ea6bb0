"""The figures of docs/results.md are those of the files that the measurements wrote."""

import json
import re
import statistics
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from training_examples.paper_ordering.cells import CACHES
from training_examples.paper_ordering.report import as_markdown

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "results.md").read_text("utf-8")
WORDS = " ".join(PAGE.split())
README = (ROOT / "README.md").read_text("utf-8")
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
    assert f"loses {masks['streaming']:.3f} instead of {masks['full']:.3f}" in WORDS
    behind = {
        place: found["in_the_row"]["full"][place] - loss for place, loss in found["in_the_row"]["streaming"].items()
    }
    assert f"by {behind['16-32']:.3f} nats at the tokens 16 to 32" in WORDS
    assert f"by {behind['512-1024']:.3f} in the last half" in WORDS
    small = {model: found["quarter_batches"][model]["1.72"] for model in ("full", "streaming")}
    assert f"full {small['full']:.3f}, StreamingLLM {small['streaming']:.3f}" in WORDS
    rotary, alibi = (found["curves"][positions] for positions in ("rotary, 32 of 32 dimensions", "ALiBi"))
    gains = {model: rotary[model]["280"] - alibi[model]["280"] for model in rotary}
    assert min(gains.values()) > 0 and max(gains, key=lambda model: gains[model]) == "full"
    assert f"({gains['full']:.2f} nats, StreamingLLM by {gains['streaming']:.2f})" in WORDS
    assert all(alibi["full"][step] < loss for step, loss in alibi["streaming"].items())


def test_the_order_of_the_methods() -> None:
    for line in as_markdown(read(STUDY / "cpu.json")).splitlines():
        assert line in PAGE.splitlines(), line


def test_what_the_order_means() -> None:
    found = read(STUDY / "cpu.json")
    models = found["models"]

    def loss(model: str, of: Callable[[dict[str, float]], float]) -> float:
        return statistics.fmean(of(where) for where in models[model]["where_seeds"].values())

    verdicts = {(pair["left"], pair["right"]): pair["verdict"].split(",")[0] for pair in found["orders"][0]["pairs"]}
    assert {pair for pair, verdict in verdicts.items() if verdict == "holds"} == {
        *(("full", "sepllm"), ("sepllm-ht", "sepllm"), ("sepllm", "streaming"))
    }
    assert set(verdicts.values()) == {"holds", "undecided"}
    behind = [
        statistics.fmean(models[model]["seeds"].values()) - statistics.fmean(models["full"]["seeds"].values())
        for model in ("sepllm", "streaming")
    ]
    assert f"{100 * models['sepllm']['kept']:.1f} % of the pairs and loses {behind[0]:.3f} nats" in WORDS
    assert f"StreamingLLM {behind[1]:.3f}." in WORDS
    quarters = found["training_apart"]["quarters"]
    ahead = [one < other for one, other in zip(quarters["sepllm"]["1234"], quarters["fixllm"]["1234"], strict=True)]
    assert ahead[2:] == [True, True] and "from the third quarter on" in WORDS
    far = [loss(model, lambda where: where["pairs far"]) for model in ("full", "sepllm", "streaming")]
    assert f"loses {far[1] - far[0]:.3f} nats to full attention, StreamingLLM {far[2] - far[0]:.3f};" in WORDS
    early = {model: figure["where"]["positions 16-32"] for model, figure in models.items()}
    assert min(early, key=lambda model: early[model]) == "streaming"
    costs = found["same_loss"]["models"]
    shares = [round(100 * costs["sepllm"][what] / costs["full"][what]) for what in ("flops", "seconds")]
    assert f"costs SepLLM {shares[0]} % of the FLOPs and {shares[1]} % of the seconds" in WORDS


def test_texts_without_end() -> None:
    found = read(STUDY / "cpu.json")
    models = {model: figure["stream_seeds"] for model, figure in found["models"].items() if figure["streams"]}

    def stream(model: str, cache: str) -> list[float]:
        return [streams[cache] for streams in models[model].values()]

    def gains(model: str, by: str, over: str = "window") -> list[float]:
        return [one - other for one, other in zip(stream(model, over), stream(model, by), strict=True)]

    def between(differences: list[float]) -> str:
        return f"{min(differences):.1f} to {max(differences):.1f}"

    assert f"beside {found['window_keys']} first and" in WORDS and f"{found['stream_keys']} first and" in WORDS
    assert f"with each seed, by {between(gains('sepllm', 'true distances'))} at true distances" in WORDS
    assert f"and {between(gains('sepllm', 'separators'))} at those in the cache" in WORDS
    assert f"in their stead help by {between(gains('sepllm', 'nearest'))}." in WORDS
    own, few = stream("sepllm", "true distances"), stream("streaming", "window")
    assert all(one < other for one, other in zip(own, few, strict=True))
    assert max(gains("streaming", "nearest")) < 0 and max(gains("streaming", "separators")) < 0
    assert statistics.fmean(few) < statistics.fmean(stream("streaming", "true distances"))
    assert f"(means {statistics.fmean(own):.1f} and {statistics.fmean(few):.1f}, and with each seed)" in WORDS
    helped = {model for model in models if statistics.fmean(gains(model, "true distances")) > 0}
    assert (
        helped == {"sepllm"}
        and "no model, by the mean of its seeds, that was not trained with them in every layer" in WORDS
    )
    lost = [[-gain for gain in gains("full", cache)] for cache in ("true distances", "separators")]
    assert f"loses {between(lost[0])} by them at true distances, {between(lost[1])} at those in the cache" in WORDS
    best = min(statistics.fmean(stream(model, cache)) for model in ("full", "sepllm", "streaming") for cache in CACHES)
    assert best == statistics.fmean(stream("full", "nearest"))
    assert f"with nearest tokens only ({best:.1f})" in WORDS
    masks = read(STUDY / "masks.json")["losses"]
    full, sepllm = masks["full"], masks["sepllm"]
    assert {model: masks[model][model] for model in masks} == pytest.approx(
        {model: found["models"][model]["loss"] for model in masks}, abs=1e-6
    )
    assert full["sepllm"] > full["streaming"]
    assert f"{full['sepllm']:.3f} nats with SepLLM's mask and {full['streaming']:.3f} with StreamingLLM's" in WORDS
    assert f"{sepllm['streaming']:.3f} nats with StreamingLLM's mask, {sepllm['full']:.3f} with all keys" in WORDS
    assert f"in sight, {sepllm['sepllm']:.3f} with its own" in WORDS
    rotary = read(STUDY / "cpu-8192.json")
    assert rotary["stream_tokens"] == found["stream_tokens"] and f"{rotary['stream_keys']} nearest)" in WORDS
    read_with = {
        model: ", ".join(f"{figure['streams'][cache]:.1f}" for cache in ("separators", "window", "nearest"))
        for model, figure in rotary["models"].items()
    }
    assert f"full attention {read_with['full']}; SepLLM {read_with['sepllm']}." in WORDS
    guide = " ".join((ROOT / "docs" / "streaming.md").read_text("utf-8").split())
    means = {
        model: [statistics.fmean(stream(model, cache)) for cache in ("true distances", "separators")]
        for model in ("sepllm", "full")
    }
    said = [f"{true:.1f} instead of {counted:.1f} for" for true, counted in means.values()]
    assert f"{said[0]} SepLLM, {said[1]} full attention" in guide


def test_the_first_page_says_the_same() -> None:
    models = read(STUDY / "cpu.json")["models"]
    said = ", ".join(f"{NAMES[model]} {models[model]['perplexity']:.1f}" for model in NAMES)
    costs = read(STUDY / "cpu-8192.json")["same_loss"]["models"]
    shares = [
        f"{100 * costs['sepllm'][key] / costs['full'][key]:.0f} % of the {word}"
        for key, word in (("flops", "FLOPs"), ("seconds", "seconds"))
    ]
    for page in (README, (STUDY.parent / "README.md").read_text("utf-8")):
        assert said in page
    assert ", ".join(shares) in README


def test_rows_of_8192() -> None:
    found = read(STUDY / "cpu-8192.json")
    table, (full, sepllm) = as_markdown(found), (found["models"][model] for model in ("full", "sepllm"))
    shares = [round(100 * sepllm[what] / full[what]) for what in ("flops", "step_seconds")]
    assert f"costs {shares[0]} % of the FLOPs of full attention and {shares[1]} % of its seconds" in WORDS
    for line in table[table.index("What a held-out loss") :].splitlines():
        assert line in PAGE.splitlines(), line


def test_flops() -> None:
    def flops(attention: str) -> float:
        files = ["configs/models/160m.yml", f"configs/attention/{attention}.yml"]
        command = [sys.executable, "deepy.py", "plan", *files]
        text = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
        return float(re.findall(r"FLOPs +(\S+) a step", text)[0])

    full = flops("full")
    for attention in ("streaming-n64", "sepllm-n64", "sepllm-n64-ht"):
        assert f"{100 * flops(attention) / full:.1f} % |" in WORDS


def test_seconds() -> None:
    attention = read(ROOT / "benchmarks" / "results" / "attention-cpu-books.json")["speed_up_of_packed"]["causal"]
    for words, seq in (("{} times as fast at 2k", 2048), ("{} times at 8k", 8192), ("and {} times at 16k", 16384)):
        assert words.format(round(attention[str(seq)], 1)) in WORDS
    step = read(ROOT / "benchmarks" / "results" / "attention-training-cpu.json")["speed_up_of_packed"]
    assert f"at 4096 tokens {step:.1f} times" in WORDS
    cases = read(ROOT / "benchmarks" / "results" / "training-step-4096-cpu.json")["comparisons"][0]["results"]
    seconds = {case["case"]: case["total_ms"] for case in cases}
    assert f"{seconds['ours, full'] / seconds['ours, sepllm']:.2f} times (`training-step-4096-cpu.json`)" in WORDS


def test_streams() -> None:
    runs = read(ROOT / "benchmarks" / "results" / "streaming-books-4m.json")["runs"]
    sepllm, streaming = (round(runs[name]["perplexity"], 1) for name in ("sepllm", "streamingllm"))
    assert f"SepLLM {sepllm}, StreamingLLM {streaming}" in WORDS

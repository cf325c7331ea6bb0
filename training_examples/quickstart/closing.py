"""The last step: the loss plot, and a table of what was made, where it lies and how good it is.

By hand, after the other steps: python -m training_examples.quickstart.closing
"""

import importlib.metadata
import json
import math
import os
import platform
import re
import statistics
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from megatron.monitor.events import read_events
from megatron.monitor.plot import plot_losses

OUT = Path("quickstart")


def made(out: Path) -> list[tuple[str, str, Path]]:
    """(what, how large, where) of every artefact."""
    characters = sum((out / "corpus" / f"{part}.jsonl").stat().st_size for part in ("train", "heldout"))
    vocabulary = len(json.loads((out / "tokenizer.json").read_text("utf-8"))["model"]["vocab"])
    return [
        ("corpus", f"{characters / 1e6:.1f} MB of JSONL", out / "corpus"),
        ("tokenizer", f"{vocabulary} tokens", out / "tokenizer.json"),
        ("token files", f"{_bytes(out / 'data') / 1e6:.1f} MB", out / "data"),
        ("checkpoints", f"{_bytes(out / 'checkpoints') / 1e6:.0f} MB, 2 pipeline stages", out / "checkpoints"),
        ("model", f"{_bytes(out / 'model') / 1e6:.0f} MB, loads in transformers", out / "model"),
        ("scores", "lm_eval, 3 tasks", out / "scores"),
        ("samples", f"{_lines(out / 'samples.jsonl')} continuations", out / "samples.jsonl"),
        ("loss plot", "PNG", out / "loss.png"),
        ("figures", "JSON, all of this table", out / "results.json"),
    ]


def training_figures(out: Path) -> dict[str, Any]:
    """Steps, tokens, median tokens/s and the kept share of attention, from the event log."""
    steps = [event for event in read_events(out / "checkpoints" / "events.jsonl") if event["kind"] == "step"]
    return {
        "steps": steps[-1]["iteration"],
        "tokens": steps[-1]["consumed_tokens"],
        "tokens_per_second": statistics.median(event["tokens_per_second"] for event in steps),
        "kept_ratio": statistics.fmean(event["kept_ratio"] for event in steps),
    }


def validation_loss(out: Path, which: str) -> float:
    """What eval.py printed for the `untrained` or the `trained` model, nats per token."""
    log = (out / "logs" / f"evaluate-{which}.log").read_text("utf-8")
    results = [json.loads(line) for line in log.splitlines() if line.startswith("{")]
    return next(float(result["loss"]) for result in results if result["set"] == "validation")


def scores(out: Path) -> dict[str, float]:
    """Accuracy of the choice task (chance is 0.25), word perplexity, exact next word, from lm_eval's newest file."""
    newest = max((out / "scores").rglob("*.json"), key=lambda path: path.stat().st_mtime)
    results = json.loads(newest.read_text("utf-8"))["results"]
    return {
        "choice": float(results["quickstart_choice"]["acc,none"]),
        "word_perplexity": float(results["quickstart_rolling"]["word_perplexity,none"]),
        "next_word": float(results["quickstart_generate"]["exact_match,first-word"]),
    }


def samples(out: Path) -> Iterator[tuple[str, str]]:
    """(prompt, continuation) of every generated sample."""
    for line in (out / "samples.jsonl").read_text("utf-8").splitlines():
        sample = json.loads(line)
        yield sample["context"], sample["text"]


def results(out: Path) -> dict[str, Any]:
    """All figures of the run with the machine they were measured on; the closing table and results.json show them."""
    return {
        "training": training_figures(out),
        "validation_loss": {which: validation_loss(out, which) for which in ("untrained", "trained")},
        "scores": scores(out),
        "environment": machine(),
    }


def machine() -> dict[str, Any]:
    """Processor, cores and versions: where figures were measured."""
    return {
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "python": platform.python_version(),
        "torch": importlib.metadata.version("torch"),
        "deepspeed": importlib.metadata.version("deepspeed"),
    }


def table(out: Path, found: dict[str, Any]) -> str:
    """The closing table as text."""
    figures, score, machine = found["training"], found["scores"], found["environment"]
    before, after = found["validation_loss"]["untrained"], found["validation_loss"]["trained"]
    lines = ["", "What was made                                 where"]
    lines += [f"  {what:<12} {size:<30} {path}" for what, size, path in made(out)]
    lines += ["", "On held-out text                   untrained    trained"]
    lines += [f"  loss, nats per token            {before:10.4f} {after:10.4f}"]
    lines += [f"  perplexity                      {math.exp(before):10.1f} {math.exp(after):10.1f}"]
    lines += [f"  lm_eval: right one of four      {'chance 25 %':>11} {100 * score['choice']:7.0f} %"]
    lines += [f"  lm_eval: next word right        {'-':>10} {100 * score['next_word']:8.0f} %"]
    lines += [f"  lm_eval: word perplexity        {'-':>10} {score['word_perplexity']:10.0f}"]
    lines += ["", "Training"]
    lines += [f"  {figures['steps']} steps, {figures['tokens']:,} tokens, {figures['tokens_per_second']:,.0f} tokens/s"]
    lines += [f"  on {machine['cores']} cores of {machine['processor']}"]
    lines += [f"  attention computed {100 * figures['kept_ratio']:.1f} % of the causal pairs"]
    return "\n".join(lines)


def _processor() -> str:
    try:
        text = Path("/proc/cpuinfo").read_text("utf-8")
    except OSError:
        text = ""
    found = re.search(r"^model name\s*: (.+)$", text, re.M)
    return found.group(1).strip() if found else platform.processor() or platform.machine()


def _bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def _lines(path: Path) -> int:
    return len(path.read_text("utf-8").splitlines())


def main() -> int:
    plot_losses([OUT / "checkpoints" / "events.jsonl"], OUT / "loss.png", "SepLLM quickstart")
    for prompt, text in samples(OUT):
        print(f"{prompt!r} -> {text!r}")
    found = results(OUT)
    (OUT / "results.json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    print(table(OUT, found))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())

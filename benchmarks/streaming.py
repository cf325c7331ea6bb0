"""Streaming perplexity in blocks beside one token at a time: the same losses, seconds per token.

python benchmarks/streaming.py [--text FOLDER --tokenizer tokenizer.json] [--out benchmarks/results/streaming-cpu.json]
Checks that both give the same losses, prints a table, writes JSON. A random model of 8 layers x hidden 512.
"""

import argparse
import json
import sys
import time
from pathlib import Path
from statistics import median
from typing import Any

# Runs from a plain clone, without installation.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch

from benchmarks.environment import describe_environment
from benchmarks.texts import PYTHIA_SEPARATORS, Text, read_text
from sepllm.config import SepConfig
from sepllm.streaming.score import StreamScorer

_GOAL = 20.0  # times faster in blocks, SepLLM at a 4, s 64, w 256, c 800
_TOLERANCE = 2e-3  # of single losses in float32; blocks multiply in another order


def main(argv: list[str] | None = None) -> int:
    """Measures every case in turn; returns 0 even where the goal is missed: the table says so."""
    flags = _parse(argv)
    torch.set_num_threads(flags.threads)
    model = _model(flags)
    text = _text(flags)
    results = [_measure(flags, model, text.ids, *case) for case in _cases(text.separators)]
    report = {
        "environment": describe_environment(),
        "text": text.source,
        "setting": {"layers": flags.layers, "hidden": flags.hidden, "dtype": "float32", "threads": flags.threads},
        "goal": {"case": "SepLLM, lazy", "times_faster": _GOAL},
        "results": results,
    }
    _print(results)
    if flags.out:
        flags.out.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
        print(f"written: {flags.out}")
    return 0


def _text(flags: argparse.Namespace) -> Text:
    if flags.text:
        return read_text(flags.text, flags.tokenizer, PYTHIA_SEPARATORS, flags.tokens)
    ids = torch.randint(0, flags.vocab, (flags.tokens,), generator=torch.Generator().manual_seed(1))
    return Text(ids, tuple(range(round(0.16 * flags.vocab))), "random tokens, 16 % of them separators")


def _cases(separators: tuple[int, ...]) -> list[tuple[str, SepConfig, str]]:
    sizes: dict[str, Any] = {"init_tokens": 4, "window": 256}
    sepllm = SepConfig(separators=separators, max_separators=64, capacity=800, **sizes)
    rule = SepConfig(separators=separators, max_separators=64, **sizes)
    streaming = SepConfig(mode="streaming", init_tokens=4, window=796, capacity=800)
    return [
        ("SepLLM, lazy", sepllm, "lazy"),
        ("SepLLM, every token", rule, "every_token"),
        ("StreamingLLM, c = a + w", streaming, "lazy"),
    ]


def _measure(
    flags: argparse.Namespace, model: Any, ids: torch.Tensor, name: str, config: SepConfig, schedule: str
) -> dict[str, Any]:
    """Both ways over the same tokens, from an empty cache."""

    def read(block: int | str) -> tuple[torch.Tensor, float]:
        scorer = StreamScorer(model, config, schedule, block)
        begun = time.perf_counter()
        nll = scorer.feed(ids[:-1], ids[1:])
        return nll, (time.perf_counter() - begun) / len(nll)

    difference = float((read("auto")[0] - read(1)[0]).abs().max())
    if difference > _TOLERANCE:
        raise SystemExit(f"{name}: blocks and single tokens differ by {difference:.2g} nats; nothing was timed.")
    timings: dict[str, list[float]] = {"block": [], "single": []}
    for _ in range(flags.repeats):
        timings["block"].append(read("auto")[1])
        timings["single"].append(read(1)[1])
    ratios = [slow / fast for slow, fast in zip(timings["single"], timings["block"], strict=True)]
    return {
        "case": name,
        "tokens": len(ids) - 1,
        "ms_per_token": {
            way: {"median": 1e3 * median(values), "min": 1e3 * min(values), "max": 1e3 * max(values)}
            for way, values in timings.items()
        },
        "times_faster": {"median": median(ratios), "min": min(ratios), "max": max(ratios)},
        "max_difference_nats": difference,
    }


def _model(flags: argparse.Namespace) -> Any:
    from transformers import GPTNeoXConfig, GPTNeoXForCausalLM

    torch.manual_seed(0)
    return GPTNeoXForCausalLM(
        GPTNeoXConfig(
            vocab_size=flags.vocab,
            hidden_size=flags.hidden,
            num_hidden_layers=flags.layers,
            num_attention_heads=8,
            intermediate_size=4 * flags.hidden,
            max_position_embeddings=2048,
        )
    ).eval()


def _print(results: list[dict[str, Any]]) -> None:
    print(
        "| case | ms/token, blocks | ms/token, one by one | times faster | greatest difference |\n|---|---|---|---|---|"
    )
    for result in results:
        times, ratio = result["ms_per_token"], result["times_faster"]
        print(
            f"| {result['case']} | {times['block']['median']:.3f} | {times['single']['median']:.2f} "
            f"| {ratio['median']:.1f} ({ratio['min']:.1f}-{ratio['max']:.1f}) | {result['max_difference_nats']:.1e} |"
        )


def _parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--text", type=Path, help="folder of .txt files; default: separators at random")
    parser.add_argument("--tokenizer", type=Path, help="tokenizer.json for --text")
    parser.add_argument("--tokens", type=int, default=2001)
    parser.add_argument("--layers", type=int, default=8)
    parser.add_argument("--hidden", type=int, default=512)
    parser.add_argument("--vocab", type=int, default=50304)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--out", type=Path)
    return parser.parse_args(argv)


if __name__ == "__main__":
    sys.exit(main())

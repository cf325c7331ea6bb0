"""Generating with a long past: milliseconds a token and bytes of the cache, SepCache beside DynamicCache and kvpress.

python benchmarks/decode.py [--out benchmarks/results/decode-cpu.json]
Checks SepCache against the mask rule first, prints a table, writes JSON. Also the prefill of the longest context.
"""

import argparse
import json
import sys
import time
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

# Runs from a plain clone, without installation.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
import transformers

from benchmarks.decode_cases import BUDGET, CASES, NO_ATTENTION, Case, kvpress_missing, make_model, random_ids, rule
from benchmarks.environment import describe_environment
from benchmarks.timing import interleaved
from sepllm.cache.model_hook import disconnect
from sepllm.cache.sep_cache import SepCache
from sepllm.hf.enable import enable

_BOUND = 1e-4


def main(argv: list[str] | None = None) -> int:
    """Measures every batch and context; returns 0 even where a goal is missed: the table says so."""
    flags = _parse(argv)
    torch.set_num_threads(flags.threads)
    model = make_model(flags.layers, flags.hidden, flags.heads, flags.vocab)
    error = _check(model, flags)
    results = [
        entry for batch in flags.batch for context in flags.context for entry in _measure(model, flags, batch, context)
    ]
    prefill = None if flags.no_prefill else _prefill(model, flags)
    report = {
        "environment": {**describe_environment(), "transformers": transformers.__version__},
        "setting": {name: getattr(flags, name) for name in ("layers", "hidden", "heads", "vocab", "rate", "steps")}
        | {"init_tokens": rule(None).init_tokens, "window": rule(None).window, "dtype": "float32"},
        "error": error,
        "missing": {"kvpress": reason} if (reason := kvpress_missing()) else {},
        "prefill": prefill,
        "goals": _goals(results, prefill, flags),
        "results": results,
    }
    print(_table(results), *_sentences(report), sep="\n")
    if flags.out:
        flags.out.parent.mkdir(parents=True, exist_ok=True)
        flags.out.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
        print(f"written: {flags.out}")
    return 0


def _parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--context", type=int, nargs="+", default=[1024, 4096, 16384])
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 16])
    parser.add_argument("--layers", type=int, default=8)
    parser.add_argument("--hidden", type=int, default=512)
    parser.add_argument("--heads", type=int, default=8)
    parser.add_argument("--vocab", type=int, default=32000)
    parser.add_argument("--rate", type=float, default=0.12, help="share of separators in the text")
    parser.add_argument("--steps", type=int, default=72, help="tokens generated with each cache, in turn")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--most-gib", type=float, default=10.0, help="leave out caches that would be larger than this")
    parser.add_argument("--no-prefill", action="store_true")
    parser.add_argument("--out", type=Path, help="JSON file for the results")
    return parser.parse_args(argv)


@torch.no_grad()
def _check(model: Any, flags: argparse.Namespace) -> float:
    """Greatest difference in logits between SepCache and the mask rule on a short text; ends the run when too large."""
    ids = random_ids(2, 700, flags.rate, flags.vocab, seed=1)
    with enable(model, rule(128)):
        expected = model(ids).logits[:, 640:]
    cache = SepCache.for_model(model, rule(128))
    model(ids[:, :640], past_key_values=cache)
    found = torch.cat([model(ids[:, t : t + 1], past_key_values=cache).logits for t in range(640, 700)], dim=1)
    error = float((found - expected).abs().max())
    if not error <= _BOUND:
        raise SystemExit(f"SepCache differs from the mask rule by {error:.1e} in logits; bound {_BOUND}.")
    return float(f"{error:.1e}")


def _measure(model: Any, flags: argparse.Namespace, batch: int, context: int) -> list[dict[str, Any]]:
    ids = random_ids(batch, context + flags.steps + 1, flags.rate, flags.vocab)
    per_token = 2 * 4 * flags.layers * flags.hidden * batch
    entries: list[dict[str, Any]] = []
    cases: dict[str, Case] = {}
    for name, make in CASES.items():
        size = per_token * (BUDGET if name == "kvpress" else context)
        if (name == "kvpress" and kvpress_missing()) or size > flags.most_gib * 2**30:
            entries.append({"cache": name, "batch": batch, "context": context, "left_out": f"{size / 2**30:.1f} GiB"})
            continue
        cases[name] = make(model, ids, context)
    if not cases:
        return entries
    times = interleaved({name: case.step for name, case in cases.items()}, 1e9, least=flags.steps, most=flags.steps)
    for name, case in cases.items():
        entry = {"cache": name, "batch": batch, "context": context, "bytes": case.bytes} | times[name].summary()
        entry["bytes_per_token_kept"] = per_token
        if isinstance(case.cache, SepCache):
            stats = case.cache.stats()
            entry["tokens_kept"] = round(stats.tokens[0], 1)
            entry["slots"] = case.cache.layers[0].rows.slots
            entry["book_keeping_ms"] = round(median(case.book_keeping) * 1e3, 4)
            entry["book_keeping_least_ms"] = round(min(case.book_keeping) * 1e3, 4)
        entries.append(entry)
    disconnect(model)
    print(f"measured: batch {batch}, {context} tokens", file=sys.stderr, flush=True)
    return entries


def _prefill(model: Any, flags: argparse.Namespace) -> dict[str, Any]:
    """Reading the longest context at once: DynamicCache, SepCache, and what no attention could be faster than."""
    ids = random_ids(1, max(flags.context), flags.rate, flags.vocab)

    @torch.no_grad()
    def sparse(limit: int | None) -> None:
        model(ids, past_key_values=SepCache.for_model(model, rule(limit)), logits_to_keep=1)

    @torch.no_grad()
    def dense() -> None:
        disconnect(model)
        model(ids, use_cache=True, logits_to_keep=1)

    @torch.no_grad()
    def without_attention() -> None:
        disconnect(model)
        model.config._attn_implementation = NO_ATTENTION
        model(ids, use_cache=True, logits_to_keep=1)
        model.config._attn_implementation = "sdpa"

    runs = {
        "no attention": without_attention,
        "DynamicCache": dense,
        "SepCache s=128": partial(sparse, 128),
        "SepCache all": partial(sparse, None),
    }
    times = interleaved(runs, 60.0, least=1, most=2)
    disconnect(model)
    return {"tokens": ids.shape[1], **{name: found.summary() for name, found in times.items()}}


def _goals(results: list[dict[str, Any]], prefill: dict[str, Any] | None, flags: argparse.Namespace) -> dict[str, Any]:
    """What was aimed at, what was found: least wall time of the steps, which a busy machine disturbs least."""
    by = {(e["cache"], e["batch"], e["context"]): e for e in results if "wall_ms" in e}
    short, long = min(flags.context), max(flags.context)
    found: dict[str, Any] = {}

    def ratio(over: tuple[str, int, int], under: tuple[str, int, int]) -> float | None:
        if over not in by or under not in by:
            return None
        return round(by[over]["wall_spread_ms"][0] / by[under]["wall_spread_ms"][0], 2)

    name = "SepCache s=128"
    for batch in flags.batch:
        mine = by[name, batch, long]
        slots = mine["bytes"] / mine["bytes_per_token_kept"]
        found[f"batch {batch}"] = {
            "own cost, longest over shortest (goal <= 1.1)": ratio((name, batch, long), (name, batch, short)),
            "speed over DynamicCache (goal >= 8)": ratio(("DynamicCache", batch, long), (name, batch, long)),
            "bytes over a+s+w entries (goal < 1.05)": round(slots / BUDGET, 3),
            "book-keeping ms (goal < 0.15)": mine["book_keeping_ms"],
        }
    if prefill is not None:
        least = {case: prefill[case]["wall_spread_ms"][0] for case in prefill if case != "tokens"}
        found["prefill over dense (goal >= 3)"] = round(least["DynamicCache"] / least[name], 2)
        found["prefill over dense, if attention were free"] = round(least["DynamicCache"] / least["no attention"], 2)
    return found


def _table(results: list[dict[str, Any]]) -> str:
    lines = [
        "| batch | context | cache | ms a token, least / median | MiB | tokens kept | book-keeping ms |",
        "|" + "---|" * 7,
    ]
    for e in results:
        head = f"| {e['batch']} | {e['context']} | {e['cache']} | "
        if "left_out" in e:
            lines.append(head + f"left out ({e['left_out']}) | | | |")
            continue
        cells = [
            f"{e['wall_spread_ms'][0]:.2f} / {e['wall_ms']:.2f}",
            f"{e['bytes'] / 2**20:.1f}",
            e.get("tokens_kept", ""),
            e.get("book_keeping_ms", ""),
        ]
        lines.append(head + " | ".join(map(str, cells)) + " |")
    return "\n".join(lines)


def _sentences(report: dict[str, Any]) -> list[str]:
    lines = [f"SepCache differs from the mask rule by at most {report['error']:.1e} in logits."]
    lines += [f"{name} left out: {reason}" for name, reason in report["missing"].items()]
    if report["prefill"]:
        prefill = report["prefill"]
        parts = [f"{name} {prefill[name]['wall_spread_ms'][0] / 1e3:.2f} s" for name in prefill if name != "tokens"]
        lines.append(f"prefill of {prefill['tokens']} tokens: " + ", ".join(parts))
    for name, goal in report["goals"].items():
        lines.append(
            f"{name}: " + (", ".join(f"{k}: {v}" for k, v in goal.items()) if isinstance(goal, dict) else str(goal))
        )
    return lines


if __name__ == "__main__":
    start = time.perf_counter()
    status = main()
    print(f"{time.perf_counter() - start:.0f} s")
    sys.exit(status)

"""Separator attention on a CPU, forward and backward, beside full attention and the original's dense mask.

python benchmarks/attention.py [--text FOLDER --tokenizer tokenizer.json] [--out benchmarks/results/attention-cpu.json]
Checks every result first, prints a table, writes JSON. Without a text: separators at random.
"""

import argparse
import json
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

# Runs from a plain clone, without installation.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch

from benchmarks.attention_cases import CASES, make_inputs, original_mask
from benchmarks.environment import describe_environment
from benchmarks.memory import added_at_peak
from benchmarks.texts import PYTHIA_SEPARATORS, Text, random_text, read_text
from benchmarks.timing import interleaved
from sepllm.attention.plan import build_plan
from sepllm.attention.statistics import kept_ratio
from sepllm.config import SepConfig

_WARM_UP_SEQ = 256
_EXACT_UP_TO = 1024  # float64 against the oracle up to here; float32 against the dense mask beyond
_GOALS = {  # least speed-up of packed over the other, by sequence length
    "causal": {512: 1.0, 1024: 1.0, 2048: 2.3, 4096: 2.3, 8192: 4.0, 16384: 6.0},
    "dense_mask": {2048: 4.0, 4096: 4.0, 8192: 9.0, 16384: 13.0},
}


def main(argv: list[str] | None = None) -> int:
    """Measures every length and case; returns 0 even where a goal is missed: the table says so."""
    flags = _parse(argv)
    torch.set_num_threads(flags.threads)
    text = _text(flags)
    config = SepConfig(separators=text.separators, window=flags.window)
    if flags.memory_of:
        print(_measure_memory(flags, config, text))
        return 0
    results = [entry for seq in flags.seq for entry in _measure(flags, config, text, seq)]
    ratios = _speed_ups(results)
    report = {
        "environment": describe_environment(),
        "text": text.source,
        "setting": {
            "batch": 1,
            "heads": flags.heads,
            "head_dim": flags.head_dim,
            "window": flags.window,
            "init_tokens": config.init_tokens,
            "dtype": "float32",
        },
        "speed_up_of_packed": ratios,
        "results": results,
    }
    print(_table(results), *_verdicts(ratios), sep="\n")
    if flags.out:
        flags.out.parent.mkdir(parents=True, exist_ok=True)
        flags.out.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
        print(f"written: {flags.out}")
    return 0


def _parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seq", type=int, nargs="+", default=[256, 512, 1024, 2048, 4096, 8192, 16384])
    parser.add_argument("--window", type=int, default=64)
    parser.add_argument("--heads", type=int, default=4)
    parser.add_argument("--head-dim", type=int, default=64)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--text", type=Path, help="folder of .txt files")
    parser.add_argument("--tokenizer", type=Path, help="tokenizer.json for --text")
    parser.add_argument("--separators", type=int, nargs="+", default=list(PYTHIA_SEPARATORS), help="ids, with --text")
    parser.add_argument("--rate", type=float, default=0.12, help="share of separators without --text")
    parser.add_argument("--seconds", type=float, default=10.0, help="time to spend on each case")
    parser.add_argument("--original-up-to", type=int, default=8192, help="longest text for the original's block mask")
    parser.add_argument("--no-memory", action="store_true", help="leave out peak memory (a process for each case)")
    parser.add_argument("--out", type=Path, help="JSON file for the results")
    parser.add_argument("--memory-of", help=argparse.SUPPRESS)  # one case, in a process of its own
    flags = parser.parse_args(argv)
    if (flags.text is None) != (flags.tokenizer is None):
        parser.error("--text and --tokenizer belong together")
    return flags


def _text(flags: argparse.Namespace) -> Text:
    tokens = max(flags.seq)
    if flags.text is None:
        return random_text(tokens, flags.rate)
    return read_text(flags.text, flags.tokenizer, tuple(flags.separators), tokens)


def _measure(flags: argparse.Namespace, config: SepConfig, text: Text, seq: int) -> list[dict[str, Any]]:
    ids = text.row(seq)
    error = _check(flags, config, text, seq)
    inputs = make_inputs(seq, flags.heads, flags.head_dim)
    steps = {name: partial(inputs.step, case, case.prepare(config, ids)) for name, case in CASES.items()}
    preparations = {name: partial(case.prepare, config, ids) for name, case in CASES.items() if name != "causal"}
    if seq <= flags.original_up_to:
        preparations["original"] = partial(original_mask, config, ids)
    times = interleaved(steps, flags.seconds)
    steps.clear()
    preparation_times = interleaved(preparations, flags.seconds / 5)
    entries = []
    for name in {**times, **preparation_times}:
        entry: dict[str, Any] = {"case": name, "seq": seq, "separators": round(text.share(seq), 4)}
        if name == "packed":
            entry["kept"] = round(kept_ratio(build_plan(config, ids)).item(), 4)
            entry["error"] = error
        if name in times:
            entry |= times[name].summary()
        if name in preparation_times:
            entry["prepare"] = preparation_times[name].summary()
        if not flags.no_memory:
            entry["added_at_peak_mib"] = _memory_in_own_process(flags, text, name, seq)
        entries.append(entry)
    print(f"measured: {seq} tokens", file=sys.stderr, flush=True)
    return entries


def _check(flags: argparse.Namespace, config: SepConfig, text: Text, seq: int) -> dict[str, Any]:
    """Greatest error of output and gradients, relative to their greatest number. Ends the run when it is too large."""
    dtype, bound = (torch.float64, 1e-12) if seq <= _EXACT_UP_TO else (torch.float32, 1e-4)
    inputs = make_inputs(seq, flags.heads, flags.head_dim, dtype)
    pair = []
    for name in ("packed", "dense_mask"):
        case = CASES[name]
        pair.append(inputs.step(case, case.prepare(config, text.row(seq))))
    error = max(((mine - true).abs().max() / true.abs().max()).item() for mine, true in zip(*pair, strict=True))
    if not error <= bound:
        raise SystemExit(f"packed attention is wrong at seq {seq}: error {error:.1e} in {dtype}, bound {bound}.")
    return {"value": float(f"{error:.2e}"), "dtype": str(dtype).removeprefix("torch.")}


def _measure_memory(flags: argparse.Namespace, config: SepConfig, text: Text) -> float:
    """Preparation and one step of one case, in this process; warmed up on a short text."""

    def run_of(seq: int) -> Callable[[], object]:
        ids = text.row(seq)
        if flags.memory_of == "original":
            return lambda: original_mask(config, ids)
        case, inputs = CASES[flags.memory_of], make_inputs(seq, flags.heads, flags.head_dim)
        return lambda: inputs.step(case, case.prepare(config, ids))

    seq = flags.seq[0]
    run_of(min(seq, _WARM_UP_SEQ))()
    return round(added_at_peak(run_of(seq)), 1)


def _memory_in_own_process(flags: argparse.Namespace, text: Text, name: str, seq: int) -> float:
    command = [sys.executable, str(Path(__file__).resolve()), "--memory-of", name, "--seq", str(seq)]
    command += ["--rate", str(text.share(seq))]  # the memory depends on the share alone
    for flag in ("window", "heads", "head_dim", "threads"):
        command += [f"--{flag.replace('_', '-')}", str(getattr(flags, flag))]
    return float(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)


def _speed_ups(results: list[dict[str, Any]]) -> dict[str, dict[int, float]]:
    """CPU time of the others over that of packed, by sequence length; memory and plan likewise."""
    by_case = {(entry["case"], entry["seq"]): entry for entry in results}
    found: dict[str, dict[int, float]] = {name: {} for name in ("causal", "dense_mask", "memory", "plan_share")}
    for (name, seq), entry in by_case.items():
        if name != "packed":
            continue
        for other in ("causal", "dense_mask"):
            found[other][seq] = round(by_case[other, seq]["cpu_ms"] / entry["cpu_ms"], 2)
        found["plan_share"][seq] = round(entry["prepare"]["cpu_ms"] / entry["cpu_ms"], 4)
        if "added_at_peak_mib" in entry:
            causal = max(by_case["causal", seq]["added_at_peak_mib"], 0.1)
            found["memory"][seq] = round(entry["added_at_peak_mib"] / causal, 2)
    return found


def _table(results: list[dict[str, Any]]) -> str:
    lines = [
        "| seq | case | forward + backward, CPU ms | spread | wall ms | prepare ms | added at peak MiB |",
        "|---|---|---|---|---|---|---|",
    ]
    for entry in results:
        spread = "-".join(f"{bound:.4g}" for bound in entry.get("cpu_spread_ms", []))
        numbers = [entry.get("cpu_ms"), spread, entry.get("wall_ms"), entry.get("prepare", {}).get("cpu_ms")]
        cells = [entry["seq"], entry["case"], *numbers, entry.get("added_at_peak_mib")]
        lines.append("| " + " | ".join("" if cell is None else str(cell) for cell in cells) + " |")
    return "\n".join(lines)


def _verdicts(ratios: dict[str, dict[int, float]]) -> list[str]:
    lines = []
    for other, goals in _GOALS.items():
        for seq, ratio in ratios[other].items():
            if seq in goals:
                met = "met" if ratio >= goals[seq] else "MISSED"
                lines.append(f"packed over {other} at {seq}: {ratio}x (goal {goals[seq]}x: {met})")
    for seq, ratio in ratios["memory"].items():
        if seq == 16384:
            lines.append(
                f"peak memory over causal at {seq}: {ratio}x (goal < 1.3x: {'met' if ratio < 1.3 else 'MISSED'})"
            )
    shares = ", ".join(f"{seq}: {share:.1%}" for seq, share in ratios["plan_share"].items())
    return [*lines, f"plan, as a share of one layer's attention step: {shares}"]


if __name__ == "__main__":
    sys.exit(main())

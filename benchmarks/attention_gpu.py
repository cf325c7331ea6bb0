"""Separator attention on a GPU beside the kernels people use: forward and backward apart, error, memory; one table.

python benchmarks/attention_gpu.py [--out benchmarks/results/attention-gpu.json]
Checks every contestant against the rule in float32 first; leaves out by name what is not there. Under 8 minutes.
"""

import argparse
import json
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

# Runs from a plain clone, without installation.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
from torch import Tensor

from benchmarks.attention_gpu_cases import CONTESTANTS, Contestant, Shape, exact, make_leaves
from benchmarks.environment import describe_environment
from benchmarks.texts import random_text
from sepllm.attention.plan import build_plan
from sepllm.attention.statistics import kept_ratio
from sepllm.config import SepConfig

_BOUNDS = {torch.bfloat16: 2e-2, torch.float16: 5e-3, torch.float32: 1e-4}
_SAMPLED_QUERIES = 256
_TYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16, "float32": torch.float32}


def main(argv: list[str] | None = None) -> int:
    """Every shape, every contestant that is there, until the time is up."""
    flags = _parse(argv)
    torch.backends.cuda.matmul.allow_tf32 = False
    until = time.monotonic() + flags.minutes * 60
    results = []
    for seq in flags.seq:
        for head_dim in flags.head_dim:
            results += _measure(flags, seq, head_dim, until)
    report = {
        "environment": describe_environment(),
        "text": random_text(1, flags.rate).source,
        "setting": {"window": flags.window, "dtype": flags.dtype, "tokens": flags.tokens, "repeats": flags.repeats},
        "results": results,
    }
    print(_table(results))
    if flags.out:
        flags.out.parent.mkdir(parents=True, exist_ok=True)
        flags.out.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
        print(f"written: {flags.out}")
    return 0


def _parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seq", type=int, nargs="+", default=[2048, 8192, 32768])
    parser.add_argument("--head-dim", type=int, nargs="+", default=[64, 128])
    parser.add_argument("--heads", type=int, default=16)
    parser.add_argument("--kv-heads", type=int, help="default: as many as heads")
    parser.add_argument("--tokens", type=int, default=32768, help="in flight: batch is this over seq")
    parser.add_argument("--window", type=int, default=64)
    parser.add_argument("--rate", type=float, default=0.15, help="share of separators, at random places")
    parser.add_argument("--dtype", choices=_TYPES, default="bfloat16")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--minutes", type=float, default=7.5, help="contestants not begun by then are left out")
    parser.add_argument("--only", nargs="+", choices=CONTESTANTS, metavar="NAME", help=", ".join(CONTESTANTS))
    parser.add_argument("--out", type=Path, help="JSON file for the results")
    parser.add_argument(
        "--dry-run", action="store_true", help="a tiny shape in float32 on the CPU: does everything but mean something"
    )
    flags = parser.parse_args(argv)
    if flags.dry_run:
        flags.seq, flags.head_dim, flags.heads, flags.tokens, flags.repeats = [300], [16], 2, 600, 2
        flags.dtype, flags.device = "float32", "cpu"
    flags.kv_heads = flags.kv_heads or flags.heads
    return flags


def _measure(flags: argparse.Namespace, seq: int, head_dim: int, until: float) -> list[dict[str, Any]]:
    batch = max(1, flags.tokens // seq)
    shape = Shape(batch, flags.heads, flags.kv_heads, seq, head_dim, _TYPES[flags.dtype], flags.device)
    text = random_text(batch * seq, flags.rate)
    config, ids = SepConfig(separators=text.separators, window=flags.window), text.ids.view(batch, seq).to(flags.device)
    kept = round(kept_ratio(build_plan(config, ids)).item(), 4)
    leaves, grad = make_leaves(shape)
    queries = torch.linspace(0, seq - 1, min(seq, _SAMPLED_QUERIES), device=flags.device).long().unique()
    truth: dict[bool, list[Tensor]] = {}
    entries, rounds = [], {}
    for name in flags.only or CONTESTANTS:
        contestant = CONTESTANTS[name]
        entry: dict[str, Any] = {"case": name, "seq": seq, "head_dim": head_dim, "batch": batch, "heads": flags.heads}
        entries.append(entry)
        if (reason := contestant.missing(shape)) is not None:
            entry["left_out"] = reason
            continue
        if time.monotonic() > until:
            entry["left_out"] = f"the {flags.minutes} minutes are over"
            continue
        if contestant.sparse not in truth:
            truth[contestant.sparse] = exact(config if contestant.sparse else None, ids, leaves, grad, queries)
        try:
            entry |= _examine(contestant, config, ids, leaves, grad, queries, truth[contestant.sparse])
        except torch.cuda.OutOfMemoryError:
            entry["left_out"] = "out of memory"
            continue
        entry["kept"] = kept if contestant.sparse else 1.0
        if max(entry["error"].values()) > _BOUNDS[shape.dtype]:
            entry["left_out"] = "wrong: no speed is given for a wrong answer"
            continue
        rounds[name] = (entry, _Rounds(contestant, config, ids, leaves, grad))
        print(f"checked: {name}, seq {seq}, head_dim {head_dim}", file=sys.stderr, flush=True)
    for _ in range(flags.repeats):
        for _, contest in rounds.values():
            contest.once()
    for entry, contest in rounds.values():
        entry |= contest.summary()
    return entries


def _examine(
    contestant: Contestant,
    config: SepConfig,
    ids: Tensor,
    leaves: list[Tensor],
    grad: Tensor,
    queries: Tensor,
    truth: list[Tensor],
) -> dict[str, Any]:
    """Compiles, and compares with the truth; then peak memory of preparation, forward and backward."""
    q, k, v = leaves
    sampled = torch.zeros_like(grad)
    sampled[:, :, queries] = grad[:, :, queries]
    begin = time.monotonic()
    out = contestant.attend(q, k, v, contestant.prepare(config, ids))
    found = [out.detach()[:, :, queries], *torch.autograd.grad(out, leaves, sampled)]
    first = time.monotonic() - begin
    error = {
        name: float(f"{((mine.float() - true).norm() / true.norm()).item():.2e}")
        for name, mine, true in zip(("out", "dq", "dk", "dv"), found, truth, strict=True)
    }
    del out, found, sampled
    entry: dict[str, Any] = {"error": error, "first_call_s": round(first, 2)}
    if ids.is_cuda:
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        out = contestant.attend(q, k, v, contestant.prepare(config, ids))
        torch.autograd.grad(out, leaves, grad)
        entry["added_at_peak_mib"] = round((torch.cuda.max_memory_allocated() - before) / 2**20, 1)
    return entry


class _Rounds:
    """Milliseconds of every repeat: preparation, forward and backward apart."""

    def __init__(
        self, contestant: Contestant, config: SepConfig, ids: Tensor, leaves: list[Tensor], grad: Tensor
    ) -> None:
        self.contestant, self.leaves, self.grad = contestant, leaves, grad
        self.prepare = partial(contestant.prepare, config, ids)
        self.prepared = self.prepare()
        self.clock: Callable[[Callable[[], Any]], tuple[Any, float]] = _gpu_clock if ids.is_cuda else _cpu_clock
        self.times: dict[str, list[float]] = {"prepare": [], "forward": [], "backward": []}

    def once(self) -> None:
        q, k, v = self.leaves
        _, prepare = self.clock(self.prepare)
        out, forward = self.clock(lambda: self.contestant.attend(q, k, v, self.prepared))
        _, backward = self.clock(lambda: torch.autograd.grad(out, self.leaves, self.grad))
        for name, found in (("prepare", prepare), ("forward", forward), ("backward", backward)):
            self.times[name].append(found)

    def summary(self) -> dict[str, Any]:
        found: dict[str, Any] = {"repeats": len(self.times["forward"])}
        for name, times in self.times.items():
            found[f"{name}_ms"] = round(median(times), 4)
            found[f"{name}_spread_ms"] = [round(min(times), 4), round(max(times), 4)]
        return found


def _gpu_clock(function: Callable[[], Any]) -> tuple[Any, float]:
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda.synchronize()
    begin.record()
    result = function()
    end.record()
    torch.cuda.synchronize()
    return result, begin.elapsed_time(end)


def _cpu_clock(function: Callable[[], Any]) -> tuple[Any, float]:
    begin = time.process_time()
    result = function()
    return result, (time.process_time() - begin) * 1e3


def _table(results: list[dict[str, Any]]) -> str:
    lines = [
        "| seq | head_dim | case | prepare ms | forward ms | backward ms | both, over best dense | added at peak MiB "
        "| worst error |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for entry in results:
        cells = [entry["seq"], entry["head_dim"], entry["case"]]
        if "forward_ms" in entry:
            best = _best_dense(results, entry)
            both = entry["forward_ms"] + entry["backward_ms"]
            cells += [f"{entry[f'{part}_ms']:.3f}" for part in ("prepare", "forward", "backward")]
            cells += [f"{best / both:.2f}x" if best else "", entry.get("added_at_peak_mib", "")]
        else:
            cells += [f"left out: {entry['left_out']}", "", "", "", ""]
        cells.append(max(entry["error"].values()) if "error" in entry else "")
        lines.append("| " + " | ".join(map(str, cells)) + " |")
    return "\n".join(lines)


def _best_dense(results: list[dict[str, Any]], entry: dict[str, Any]) -> float | None:
    """Milliseconds, forward and backward, of the fastest full attention at this shape."""
    same = (other for other in results if (other["seq"], other["head_dim"]) == (entry["seq"], entry["head_dim"]))
    dense = [other for other in same if other.get("kept") == 1.0 and "forward_ms" in other]
    return min((other["forward_ms"] + other["backward_ms"] for other in dense), default=None)


if __name__ == "__main__":
    sys.exit(main())

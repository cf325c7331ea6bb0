"""What the ranks of a context group exchange: separators and windows, beside all earlier keys and a full all-gather.

python benchmarks/context_parallel.py [--text FOLDER --tokenizer tokenizer.json] [--out FILE.json]
Bytes are those that the exchange itself counts in real processes (gloo). Times on one machine are only an indication.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from datetime import timedelta
from pathlib import Path
from statistics import fmean
from typing import Any

# Runs from a plain clone, without installation.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
import torch.distributed as dist
from torch import Tensor

from benchmarks.environment import describe_environment
from benchmarks.texts import PYTHIA_SEPARATORS, Text, random_text, read_texts
from benchmarks.timing import interleaved
from sepllm.attention.context.attention import context_attention
from sepllm.attention.context.exchange import ContextGroup
from sepllm.attention.context.plan import build_context_plan, exchanged_keys, rank_pairs
from sepllm.attention.context.split import split_text
from sepllm.attention.interface import separator_attention
from sepllm.attention.plan import build_plan
from sepllm.config import SepConfig

_EXACT_UP_TO = 4096  # compared with attention in one process up to here
_BOUND = 1e-4


def main(argv: list[str] | None = None) -> int:
    """Counts over all books by plan, measures one book in processes; prints two tables, writes JSON."""
    flags = _parse(argv)
    if flags.rank is not None:
        return _run_rank(flags)
    texts = _texts(flags, max(flags.seq))
    counted = [
        _count(texts, seq, ranks, window) for seq in flags.seq for ranks in flags.ranks for window in flags.windows
    ]
    measured = [
        _measure(flags, texts[len(texts) // 2], seq, window) for seq in flags.measured_seq for window in flags.windows
    ]
    report = {
        "environment": describe_environment(),
        "texts": [text.source for text in texts],
        "setting": {"heads": flags.heads, "kv_heads": flags.kv_heads, "head_dim": flags.head_dim, "dtype": "float32"},
        "keys_by_plan": counted,
        "bytes_in_processes": measured,
    }
    print(_counted_table(counted), "", _measured_table(measured), sep="\n")
    if flags.out:
        flags.out.parent.mkdir(parents=True, exist_ok=True)
        flags.out.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
        print(f"written: {flags.out}")
    return 0


def _parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seq", type=int, nargs="+", default=[8192, 32768], help="lengths whose keys are counted")
    parser.add_argument("--ranks", type=int, nargs="+", default=[2, 4, 8, 32])
    parser.add_argument("--windows", type=int, nargs="+", default=[64, 128, 256])
    parser.add_argument("--measured-seq", type=int, nargs="+", default=[4096, 16384], help="lengths run in processes")
    parser.add_argument("--processes", type=int, default=4)
    parser.add_argument("--heads", type=int, default=4)
    parser.add_argument("--kv-heads", type=int, default=4)
    parser.add_argument("--head-dim", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=5.0, help="time to spend on each case")
    parser.add_argument("--text", type=Path, help="folder of .txt files")
    parser.add_argument("--tokenizer", type=Path, help="tokenizer.json for --text")
    parser.add_argument("--most-texts", type=int, default=20, help="files of the folder that are read")
    parser.add_argument("--separators", type=int, nargs="+", default=list(PYTHIA_SEPARATORS), help="ids, with --text")
    parser.add_argument("--rate", type=float, default=0.12, help="share of separators without --text")
    parser.add_argument("--out", type=Path, help="JSON file for the results")
    parser.add_argument("--rank", type=int, help=argparse.SUPPRESS)  # one process of a measurement
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    flags = parser.parse_args(argv)
    if (flags.text is None) != (flags.tokenizer is None):
        parser.error("--text and --tokenizer belong together")
    return flags


def _texts(flags: argparse.Namespace, tokens: int) -> list[Text]:
    if flags.text is None:
        return [random_text(tokens, flags.rate)]
    return read_texts(flags.text, flags.tokenizer, tuple(flags.separators), tokens, flags.most_texts)


def _count(texts: list[Text], seq: int, ranks: int, window: int) -> dict[str, Any]:
    """Keys that all ranks receive per layer, forward, and how evenly the pairs lie on the ranks; means over texts."""
    split, contiguous = split_text(seq, ranks), split_text(seq, ranks, "contiguous")
    all_gather = (ranks - 1) * seq
    ratios, busiest, earlier, balance, flat_balance, shares = [], [], [], [], [], []
    for text in texts:
        plan = build_plan(SepConfig(separators=text.separators, window=window), text.row(seq))
        received = exchanged_keys(plan, split).sum(dim=1)
        ratios.append(int(received.sum()) / all_gather)
        busiest.append(int(received.max()) * ranks / all_gather)
        earlier.append(int(exchanged_keys(plan, split, sees_all=True).sum()) / all_gather)
        balance.append(_unevenness(rank_pairs(plan, split)))
        flat_balance.append(_unevenness(rank_pairs(plan, contiguous)))
        shares.append(text.share(seq))
    share = fmean(shares)
    return {
        "seq": seq,
        "ranks": ranks,
        "window": window,
        "texts": len(texts),
        "separators": round(share, 4),
        "all_gather_keys": all_gather,
        "received_share": round(fmean(ratios), 4),
        "received_share_spread": [round(min(ratios), 4), round(max(ratios), 4)],
        "busiest_receiver_share": round(fmean(busiest), 4),
        "received_share_of_contiguous_formula": round(share + ranks * (window - 1) / ((ranks - 1) * seq), 4),
        "all_earlier_keys_share": round(fmean(earlier), 4),
        "times_less_than_all_gather": round(1 / fmean(ratios), 2),
        "zigzag_max_over_mean_pairs": [round(fmean(balance), 3), round(max(balance), 3)],
        "contiguous_max_over_mean_pairs": [round(fmean(flat_balance), 3), round(max(flat_balance), 3)],
    }


def _unevenness(pairs: Tensor) -> float:
    return float(pairs.max() / pairs.double().mean())


def _measure(flags: argparse.Namespace, text: Text, seq: int, window: int) -> dict[str, Any]:
    """One text on `processes` processes of this machine, forward and backward."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        task = {"ids": text.ids[:seq].tolist(), "separators": list(text.separators), "window": window}
        (folder / "task.json").write_text(json.dumps(task), encoding="utf-8")
        sizes = ["--heads", flags.heads, "--kv-heads", flags.kv_heads, "--head-dim", flags.head_dim]
        more = [*sizes, "--seconds", flags.seconds, "--processes", flags.processes, "--folder", folder]
        command = [sys.executable, __file__, *map(str, more), "--rank"]
        running = [subprocess.Popen([*command, str(rank)]) for rank in range(flags.processes)]
        codes = [process.wait() for process in running]
        if any(codes):
            raise SystemExit(f"a process of the measurement of {seq} tokens failed: exit codes {codes}")
        found = [json.loads((folder / f"{rank}.json").read_text("utf-8")) for rank in range(flags.processes)]
    row = 2 * flags.kv_heads * flags.head_dim * 4  # bytes of one key and value
    entry: dict[str, Any] = {"seq": seq, "processes": flags.processes, "window": window, "text": text.source}
    entry["error"] = max(one["error"] for one in found) if seq <= _EXACT_UP_TO else None
    entry["all_gather_bytes"] = (flags.processes - 1) * seq * row
    for case in ("separators", "all_keys"):
        entry[case] = {
            "forward_bytes": sum(one[case]["forward_bytes"] for one in found),
            "backward_bytes": sum(one[case]["backward_bytes"] for one in found),
            "slowest": max((one[case]["times"] for one in found), key=lambda times: times["wall_ms"]),
        }
    entry["times_less_than_all_gather"] = round(entry["all_gather_bytes"] / entry["separators"]["forward_bytes"], 2)
    print(f"measured: {seq} tokens, window {window}", file=sys.stderr, flush=True)
    return entry


def _run_rank(flags: argparse.Namespace) -> int:
    torch.set_num_threads(1)
    task = json.loads((flags.folder / "task.json").read_text("utf-8"))
    dist.init_process_group(
        "gloo",
        init_method=f"file://{flags.folder / 'meeting'}",
        rank=flags.rank,
        world_size=flags.processes,
        timeout=timedelta(minutes=5),
    )
    ids = torch.tensor([task["ids"]])
    seq = ids.shape[1]
    whole = build_plan(SepConfig(separators=task["separators"], window=task["window"]), ids)
    split = split_text(seq, flags.processes)
    own = split.positions(flags.rank)
    source = torch.Generator().manual_seed(0)
    shapes = [(flags.heads, seq), (flags.kv_heads, seq), (flags.kv_heads, seq), (flags.heads, seq)]
    tensors = [torch.randn(1, heads, length, flags.head_dim, generator=source) for heads, length in shapes]
    *inputs, grad = (tensor[:, :, own] for tensor in tensors)

    def step(sees_all: bool, group: ContextGroup) -> list[Tensor]:
        plan = plans[sees_all]
        leaves = [tensor.detach().requires_grad_() for tensor in inputs]
        out = context_attention(*leaves, plan, group, path="packed")
        return [out.detach(), *torch.autograd.grad(out, leaves, grad)]

    plans = {flag: build_context_plan(whole, split, flags.rank, sees_all=flag) for flag in (False, True)}
    found: dict[str, Any] = {"error": None}
    for name, sees_all in (("separators", False), ("all_keys", True)):
        group = ContextGroup(flags.rank, flags.processes)
        result = step(sees_all, group)
        found[name] = {
            "forward_bytes": group.traffic.forward_bytes,
            "backward_bytes": group.traffic.backward_bytes,
        }
        if seq <= _EXACT_UP_TO:
            found["error"] = _error(result, _alone(tensors, whole), own)
    cases = {
        name: lambda sees_all=sees_all: step(sees_all, ContextGroup(flags.rank, flags.processes))
        for name, sees_all in (("separators", False), ("all_keys", True))
    }
    # All ranks repeat alike: a number that depended on a rank's own clock would leave the others waiting.
    for name, times in interleaved(cases, flags.seconds, least=5, most=5).items():
        found[name]["times"] = times.summary()
    (flags.folder / f"{flags.rank}.json").write_text(json.dumps(found), encoding="utf-8")
    dist.barrier()
    dist.destroy_process_group()
    return 0


def _alone(tensors: list[Tensor], plan: Any) -> list[Tensor]:
    leaves = [tensor.detach().requires_grad_() for tensor in tensors[:3]]
    out = separator_attention(*leaves, plan, path="packed")
    return [out.detach(), *torch.autograd.grad(out, leaves, tensors[3])]


def _error(ours: list[Tensor], alone: list[Tensor], own: Tensor) -> float:
    """Greatest error of output and gradients, relative to their greatest number; ends the run when too large."""
    pairs = zip(ours, alone, strict=True)
    error = max(((mine - true[:, :, own]).abs().max() / true.abs().max()).item() for mine, true in pairs)
    if not error <= _BOUND:
        raise SystemExit(f"attention over several ranks is wrong: error {error:.1e}, bound {_BOUND}.")
    return float(f"{error:.2e}")


def _counted_table(entries: list[dict[str, Any]]) -> str:
    lines = [
        "| tokens | ranks | window | received of an all-gather: all ranks, busiest | times less | all earlier keys | "
        "busiest rank / mean: zigzag, contiguous |",
        "|---|---|---|---|---|---|---|",
    ]
    for e in entries:
        lines.append(
            f"| {e['seq']} | {e['ranks']} | {e['window']} | {e['received_share']:.1%}, "
            f"{e['busiest_receiver_share']:.1%} | "
            f"{e['times_less_than_all_gather']} | {e['all_earlier_keys_share']:.1%} | "
            f"{e['zigzag_max_over_mean_pairs'][0]}, {e['contiguous_max_over_mean_pairs'][0]} |"
        )
    return "\n".join(lines)


def _measured_table(entries: list[dict[str, Any]]) -> str:
    lines = [
        "| tokens | processes | window | MB forward: separators, all earlier keys, all-gather | times less | "
        "ms forward + backward: separators, all earlier keys |",
        "|---|---|---|---|---|---|",
    ]
    for e in entries:
        mb = [e["separators"]["forward_bytes"], e["all_keys"]["forward_bytes"], e["all_gather_bytes"]]
        ms = [e[case]["slowest"]["wall_ms"] for case in ("separators", "all_keys")]
        lines.append(
            f"| {e['seq']} | {e['processes']} | {e['window']} | {', '.join(f'{size / 1e6:.2f}' for size in mb)} | "
            f"{e['times_less_than_all_gather']} | {ms[0]:.0f}, {ms[1]:.0f} |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())

"""Training steps of the whole trainer beside a plain loop of transformers with AdamW: tokens per second, peak memory.

python benchmarks/training_step.py [--out benchmarks/results/training-step-cpu.json]
python benchmarks/training_step.py --preset pythia-160m --out benchmarks/results/training-step-160m.json   # one GPU
Every trainer lives in a process of its own; their steps take turns. First their losses are compared: full attention
with transformers, separator attention with transformers under the rule's dense mask.
"""

import argparse
import json
import multiprocessing
import os
import sys
from pathlib import Path
from statistics import median
from typing import Any

# Runs from a plain clone, without installation.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
from torch import Tensor

from benchmarks.environment import describe_environment
from benchmarks.texts import PYTHIA_SEPARATORS, random_text, read_text
from benchmarks.training_step_cases import MAKERS, Setting, serve
from megatron.model.flops import forward_flops
from megatron.model.gpt_model import GPTModel
from megatron.monitor.device_peak import peak_tflops

CHECKED_STEPS = 3
ROWS = 8  # different batches, used in a circle
PLAIN, MASKED, FULL, SEPLLM = MAKERS
GOALS = {512: (FULL, 1.0), 4096: (SEPLLM, 1.5)}
MOST_OVERHEAD = 0.05

# On a GPU the plain loop runs under autocast, full attention through PyTorch's flash kernel on both sides.
_GPU = {"device": "cuda", "precision": "bfloat16", "seq": [2048, 8192], "tokens": 32768, "apart": True}
PRESETS: dict[str, dict[str, Any]] = {
    "cpu": {},
    "pythia-160m": _GPU | {"layers": 12, "hidden": 768, "heads": 12},
    "pythia-1.4b": _GPU | {"layers": 24, "hidden": 2048, "heads": 16, "recompute": True},
}


def main(argv: list[str] | None = None) -> int:
    """One comparison for each length of --seq; exit code 1 when a loss is wrong."""
    flags = _parse(argv)
    comparisons = [_compare(flags, seq) for seq in flags.seq]
    report = {
        "environment": describe_environment() | {"threads": flags.threads},
        "setting": {name: getattr(flags, name) for name in _SETTING},
        "comparisons": comparisons,
    }
    for comparison in comparisons:
        print(_table(comparison))
    if flags.out:
        flags.out.parent.mkdir(parents=True, exist_ok=True)
        flags.out.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
        print(f"written: {flags.out}")
    return 0


def _compare(flags: argparse.Namespace, seq: int) -> dict[str, Any]:
    setting, source = _setting(flags, seq)
    trainers = {name: _Process(name, setting) for name in MAKERS}
    losses: dict[str, list[float]] = {}
    steps: dict[str, list[dict[str, float]]] = {name: [] for name in trainers}
    memory: dict[str, float] = {}
    for group in [[name] for name in trainers] if flags.apart else [list(trainers)]:
        for name in group:
            trainers[name].start()
            losses[name] = [trainers[name].step()["loss"] for _ in range(CHECKED_STEPS)]
            if name == MASKED and not flags.time_mask:
                memory[name] = trainers[name].stop()
        if not flags.apart:  # before any time is spent on timing
            _check(losses, flags.tolerance)
        running = [name for name in group if name not in memory]
        for _ in range(flags.steps):
            for name in running:
                steps[name].append(trainers[name].step())
        for name in running:
            memory[name] = trainers[name].stop()
    differences = _check(losses, flags.tolerance)
    work = _work(setting)
    results = [
        _summary(name, steps[name], memory[name], setting, work[name != SEPLLM]) for name in MAKERS if steps[name]
    ]
    plain = results[0]
    for entry in results:
        entry["speed_up"] = round(entry["tokens_per_second"] / plain["tokens_per_second"], 2)
        entry["speed_up_cpu_time"] = round(entry["tokens_per_cpu_second"] / plain["tokens_per_cpu_second"], 2)
    return {
        "seq": seq,
        "micro_batch": setting.micro_batch,
        "text": source,
        "kept": round(work["kept"], 4),
        "loss_differences": differences,
        "results": results,
    }


class _Process:
    """A trainer in a process that nothing else shares."""

    def __init__(self, name: str, setting: Setting) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=serve, args=(name, setting, theirs), daemon=True)
        self._name = name

    def start(self) -> None:
        if self._process.pid is None:
            self._process.start()
            self._receive()

    def step(self) -> dict[str, float]:
        self._pipe.send("step")
        found: dict[str, float] = self._receive()
        return found

    def stop(self) -> float:
        """End it; MiB added at peak."""
        self._pipe.send(None)
        found: float = self._receive()
        self._process.join()
        return found

    def _receive(self) -> Any:
        while not self._pipe.poll(0.2):
            if not self._process.is_alive():
                raise SystemExit(f"{self._name} ended with exit code {self._process.exitcode}.")
        return self._pipe.recv()


def _check(losses: dict[str, list[float]], tolerance: float) -> dict[str, float]:
    """Largest relative difference of ours from the same mathematics in transformers. Ends the run when too large."""
    found = {}
    for ours, theirs in ((FULL, PLAIN), (SEPLLM, MASKED)):
        pairs = zip(losses[ours], losses[theirs], strict=True)
        found[ours] = max(abs(a - b) / b for a, b in pairs)
        if not found[ours] <= tolerance:
            raise SystemExit(f"{ours} is wrong: losses {losses[ours]}, but {theirs} has {losses[theirs]}.")
    return {name: float(f"{difference:.1e}") for name, difference in found.items()}


def _work(setting: Setting) -> dict[Any, float]:
    """10^12 model operations of a step (True: full attention, False: the rule), and "kept", the rule's share."""
    ids = setting.rows[0, :, :-1]
    with torch.device("meta"):
        model = GPTModel(setting.model(full=False))
    kept, causal, *_ = model.attention_counts(ids).sum(dim=0).tolist()
    tera = {
        full: forward_flops(model.config, ids.numel(), pairs).model / 1e12
        for full, pairs in ((False, kept), (True, causal))
    }
    return tera | {"kept": kept / causal}


def _summary(name: str, steps: list[dict[str, float]], memory: float, setting: Setting, tera: float) -> dict[str, Any]:
    tokens = setting.micro_batch * setting.seq
    middle = {part: median(step[part] for step in steps) for part in steps[0]}
    outside = median(1 - (step["forward"] + step["backward"] + step["optimizer"]) / step["total"] for step in steps)
    entry: dict[str, Any] = {"case": name, "repeats": len(steps)}
    for part in ("total", "forward", "backward", "optimizer", "cpu"):
        entry[f"{part}_ms"] = round(1e3 * middle[part], 1)
    entry["spread_ms"] = [round(1e3 * bound(step["total"] for step in steps), 1) for bound in (min, max)]
    entry["outside_share"] = round(outside, 4)
    entry["tokens_per_second"] = round(tokens / middle["total"])
    entry["tokens_per_cpu_second"] = round(tokens / middle["cpu"])
    entry["peak_mib"] = round(memory, 1)
    entry["tflops"] = float(f"{tera / middle['total']:.4g}")
    if setting.device == "cuda":
        peak = peak_tflops(torch.cuda.get_device_name(), "bf16" if setting.precision == "bfloat16" else "fp32")
        entry["mfu"] = None if peak is None else round(entry["tflops"] / peak, 4)
    return entry


_SETTING = ("preset", "layers", "hidden", "heads", "vocabulary", "tokens", "window", "precision", "recompute", "path")


def _parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", choices=PRESETS, default="cpu", help="defaults of the other flags")
    parser.add_argument("--layers", type=int, default=6)
    parser.add_argument("--hidden", type=int, default=256)
    parser.add_argument("--heads", type=int, default=4)
    parser.add_argument("--vocabulary", type=int, default=50304)
    parser.add_argument("--seq", type=int, nargs="+", default=[512, 4096])
    parser.add_argument("--tokens", type=int, default=4096, help="in a step: rows of the batch x --seq")
    parser.add_argument("--window", type=int, default=64)
    parser.add_argument("--precision", choices=["fp32", "bfloat16"], default="fp32")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--path", default="auto", help="attention path of the separator model")
    parser.add_argument("--recompute", action="store_true", help="recompute activations, on both sides")
    parser.add_argument("--apart", action="store_true", help="one trainer after the other: where memory is short")
    parser.add_argument("--time-mask", action="store_true", help="time transformers under the dense mask as well")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--steps", type=int, default=10, help="timed steps of each trainer")
    parser.add_argument("--text", type=Path, help="folder of .txt files; default random ids")
    parser.add_argument("--tokenizer", type=Path, help="tokenizer.json for --text")
    parser.add_argument("--separators", type=int, nargs="+", default=list(PYTHIA_SEPARATORS), help="ids, with --text")
    parser.add_argument("--rate", type=float, default=0.14, help="share of separators without --text")
    parser.add_argument("--out", type=Path, help="JSON file for the results")
    chosen = parser.parse_known_args(argv)[0].preset
    parser.set_defaults(**PRESETS[chosen])
    flags = parser.parse_args(argv)
    if (flags.text is None) != (flags.tokenizer is None):
        parser.error("--text and --tokenizer belong together")
    if any(flags.tokens % seq for seq in flags.seq):
        parser.error(f"--tokens {flags.tokens} must be a multiple of every --seq ({flags.seq})")
    if flags.device == "cuda" and not torch.cuda.is_available():
        parser.error("no GPU is visible; --preset cpu runs without one")
    flags.tolerance = 1e-4 if flags.precision == "fp32" else 1e-2
    return flags


def _setting(flags: argparse.Namespace, seq: int) -> tuple[Setting, str]:
    ids, separators, source = _ids(flags, ROWS * (flags.tokens + flags.tokens // seq))
    shape = {name: getattr(flags, name) for name in ("layers", "hidden", "heads", "vocabulary", "window", "precision")}
    machine = {name: getattr(flags, name) for name in ("device", "threads", "path", "recompute")}
    micro_batch = flags.tokens // seq
    rows = ids.view(ROWS, micro_batch, seq + 1)
    return Setting(seq=seq, micro_batch=micro_batch, separators=separators, rows=rows, **shape, **machine), source


def _ids(flags: argparse.Namespace, count: int) -> tuple[Tensor, tuple[int, ...], str]:
    if flags.text is not None:
        text = read_text(flags.text, flags.tokenizer, tuple(flags.separators), count)
        return text.ids, text.separators, text.source
    text = random_text(count, flags.rate)
    torch.manual_seed(1)
    others = torch.randint(2, flags.vocabulary, (count,))
    return torch.where(text.ids == 1, 1, others), (1,), text.source


def _table(comparison: dict[str, Any]) -> str:
    seq = comparison["seq"]
    lines = [
        f"{seq} tokens a row, {comparison['micro_batch']} rows; the rule keeps {comparison['kept']:.1%} of pairs; "
        f"losses differ by at most {max(comparison['loss_differences'].values()):.0e}",
        "| trainer | step ms | spread | CPU ms | tokens/s | over plain | CPU time | outside | peak MiB | TFLOP/s |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for entry in comparison["results"]:
        spread = "-".join(f"{bound:.0f}" for bound in entry["spread_ms"])
        cells = [entry["case"], f"{entry['total_ms']:.0f}", spread, f"{entry['cpu_ms']:.0f}"]
        cells += [f"{entry['tokens_per_second']:,}", f"{entry['speed_up']}x", f"{entry['speed_up_cpu_time']}x"]
        cells += [f"{entry['outside_share']:.1%}", f"{entry['peak_mib']:,.0f}", f"{entry['tflops']:g}"]
        lines.append("| " + " | ".join(cells) + " |")
    found = {entry["case"]: entry for entry in comparison["results"]}
    if seq in GOALS:
        case, goal = GOALS[seq]
        met = "met" if found[case]["speed_up"] >= goal else "MISSED"
        lines.append(f"{case} {found[case]['speed_up']}x of transformers (goal {goal}x: {met})")
    worst = max(found[case]["outside_share"] for case in (FULL, SEPLLM))
    met = "met" if worst < MOST_OVERHEAD else "MISSED"
    lines.append(f"engine outside forward, backward, optimizer: {worst:.1%} (goal {MOST_OVERHEAD:.0%}: {met})")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    sys.exit(main())

"""Training steps of a small model on a CPU: separator attention beside the same model with full attention.

python benchmarks/attention_training.py [--out benchmarks/results/attention-training-cpu.json]
Full attention runs through PyTorch's causal kernel. Steps of both take turns; loss, gradients and AdamW included.
"""

import argparse
import json
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

# Runs from a plain clone, without installation.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
from torch import Tensor

from benchmarks.attention_cases import packed_plan
from benchmarks.environment import describe_environment
from benchmarks.texts import PYTHIA_SEPARATORS, Text, random_text, read_text
from benchmarks.timing import interleaved
from megatron.model.config import ModelConfig
from megatron.model.gpt_model import GPTModel
from megatron.model.loss import language_model_loss
from megatron.mpu.parallel_state import TensorParallel
from sepllm.attention.plan import build_plan
from sepllm.attention.statistics import kept_ratio
from sepllm.config import SepConfig

_SEPARATOR = 1  # the text's separators as one id of the model's vocabulary
_GOAL = 1.5


def main(argv: list[str] | None = None) -> int:
    """Checks the sparse model against its dense mask, then times both models."""
    flags = _parse(argv)
    torch.set_num_threads(flags.threads)
    torch.manual_seed(0)
    text = _text(flags)
    ids = _model_ids(text.row(flags.seq + 1), text, flags.vocabulary)
    sparse = SepConfig(separators=(_SEPARATOR,), window=flags.window)
    models = {
        "full": _config(flags, SepConfig(mode="full"), "masked"),
        "packed": _config(flags, sparse, "packed"),
    }
    error = _check(models["packed"], ids)
    trainers = {name: Trainer(config, ids) for name, config in models.items()}
    times = interleaved({name: partial(trainer.step) for name, trainer in trainers.items()}, flags.seconds)
    plan = interleaved({"": lambda: packed_plan(sparse, ids[:, :-1])}, flags.seconds / 10)[""].summary()
    results = []
    for name, measured in times.items():
        summary = measured.summary()
        entry: dict[str, Any] = {"case": name, **summary}
        entry["tokens_per_cpu_second"] = round(flags.seq / summary["cpu_ms"] * 1e3)
        entry["tokens_per_second"] = round(flags.seq / summary["wall_ms"] * 1e3)
        entry["loss"] = round(trainers[name].loss, 4)
        results.append(entry)
    speed_up = round(results[1]["tokens_per_cpu_second"] / results[0]["tokens_per_cpu_second"], 2)
    report = {
        "environment": describe_environment(),
        "text": text.source,
        "setting": {what: getattr(flags, what) for what in _SETTING},
        "kept": round(kept_ratio(build_plan(sparse, ids[:, :-1])).item(), 4),
        "error": error,
        "plan": plan,
        "speed_up_of_packed": speed_up,
        "results": results,
    }
    print(_table(results))
    met = "met" if speed_up >= _GOAL else "MISSED"
    print(f"packed over full attention: {speed_up}x tokens per CPU second (goal {_GOAL}x: {met}); ", end="")
    print(f"plan {plan['cpu_ms'] / results[1]['cpu_ms']:.2%} of the step")
    if flags.out:
        flags.out.parent.mkdir(parents=True, exist_ok=True)
        flags.out.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
        print(f"written: {flags.out}")
    return 0


class Trainer:
    """One model with its optimizer, repeating the same row of tokens."""

    def __init__(self, config: ModelConfig, ids: Tensor) -> None:
        self.model = GPTModel(config)
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-4)
        self.tokens, self.labels = ids[:, :-1].contiguous(), ids[:, 1:].contiguous()
        self.loss = float("nan")

    def step(self) -> None:
        """Plan, forward, loss, backward, update."""
        self.optimizer.zero_grad()
        mask = torch.ones(self.labels.shape)
        loss = language_model_loss(self.model(self.tokens), (self.labels, mask), TensorParallel())
        loss.backward()
        self.optimizer.step()
        self.loss = loss.item()


_SETTING = ("layers", "hidden", "heads", "vocabulary", "seq", "window", "threads")


def _parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=int, default=6)
    parser.add_argument("--hidden", type=int, default=256)
    parser.add_argument("--heads", type=int, default=4)
    parser.add_argument("--vocabulary", type=int, default=4096, help="default: that of the quickstart")
    parser.add_argument("--seq", type=int, default=4096)
    parser.add_argument("--window", type=int, default=64)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--text", type=Path, help="folder of .txt files")
    parser.add_argument("--tokenizer", type=Path, help="tokenizer.json for --text")
    parser.add_argument("--separators", type=int, nargs="+", default=list(PYTHIA_SEPARATORS), help="ids, with --text")
    parser.add_argument("--rate", type=float, default=0.12, help="share of separators without --text")
    parser.add_argument("--seconds", type=float, default=60.0, help="time to spend on each case")
    parser.add_argument("--out", type=Path, help="JSON file for the results")
    flags = parser.parse_args(argv)
    if (flags.text is None) != (flags.tokenizer is None):
        parser.error("--text and --tokenizer belong together")
    return flags


def _text(flags: argparse.Namespace) -> Text:
    if flags.text is None:
        return random_text(flags.seq + 1, flags.rate)
    return read_text(flags.text, flags.tokenizer, tuple(flags.separators), flags.seq + 1)


def _model_ids(row: Tensor, text: Text, vocabulary: int) -> Tensor:
    """The text's separators where they are, other tokens at random: their cost does not depend on which they are."""
    others = torch.randint(_SEPARATOR + 1, vocabulary, row.shape)
    return others.where(~torch.isin(row, torch.tensor(text.separators)), _SEPARATOR)


def _config(flags: argparse.Namespace, attention: SepConfig, path: str) -> ModelConfig:
    return ModelConfig(
        num_layers=flags.layers,
        hidden_size=flags.hidden,
        num_attention_heads=flags.heads,
        num_kv_heads=flags.heads,
        mlp_hidden_size=4 * flags.hidden,
        padded_vocab_size=flags.vocabulary,
        max_position_embeddings=flags.seq,
        attention=attention,
        attention_path=path,
    )


def _check(config: ModelConfig, ids: Tensor) -> float:
    """Greatest difference of the logits from those of the dense mask. Ends the run when it is too large."""
    with torch.no_grad():
        pair = [GPTModel(replace(config, attention_path=path))(ids[:, :-1]) for path in ("packed", "masked")]
    error = ((pair[0] - pair[1]).abs().max() / pair[1].abs().max()).item()
    if not error < 1e-4:
        raise SystemExit(f"the packed model is wrong: logits differ by {error:.1e} of the greatest.")
    return float(f"{error:.2e}")


def _table(results: list[dict[str, Any]]) -> str:
    lines = ["| model | step, CPU ms | spread | wall ms | tokens per CPU second |", "|---|---|---|---|---|"]
    for entry in results:
        spread = "-".join(f"{bound:.0f}" for bound in entry["cpu_spread_ms"])
        numbers = [f"{entry['cpu_ms']:.0f}", spread, f"{entry['wall_ms']:.0f}", entry["tokens_per_cpu_second"]]
        lines.append(f"| {entry['case']} | " + " | ".join(map(str, numbers)) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())

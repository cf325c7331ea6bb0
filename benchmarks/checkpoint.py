"""Saving and loading a model with Adam's state, beside raw torch.save and torch.load of the same bytes.

Ours: hashes of every byte, a manifest, everything synced before the rename; a load checks every hash before it copies a
tensor. The raw file has none of that; it is timed as it comes and with a sync, which makes it last through a power cut.
"""

import argparse
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.environment import describe_environment
from megatron.checkpointing.folders import optimizer_file, weights_file
from megatron.checkpointing.reader import CheckpointReader, find_checkpoint
from megatron.checkpointing.retention import Retention
from megatron.checkpointing.saver import CheckpointSaver
from megatron.checkpointing.tensor_file import TensorFile
from megatron.mpu.parallel_state import ParallelState

SIZES = {"tiny": (2, 64, 512), "70m": (6, 512, 50304), "160m": (12, 768, 50304)}
GOALS = {"background save, training waits": 0.15, "save": 1.2, "verified load": 1.5}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=SIZES, default="160m", help="layers, width and vocabulary of the model")
    parser.add_argument("--folder", type=Path, help="where to write; default a temporary folder")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="threads of torch for copies")
    parser.add_argument("--out", type=Path, help="JSON file for the result")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        result = measure(Path(folder), options.size, options.repeats)
    text = json.dumps(result, indent=1)
    print(text)
    if options.out:
        options.out.write_text(text + "\n", encoding="utf-8")


def measure(folder: Path, size: str, repeats: int) -> dict[str, Any]:
    """Every case once per round, after a first round that does not count."""
    live = _tensors(*SIZES[size])
    bench = _Bench(folder, live)
    bench.check()
    times: dict[str, list[float]] = {}
    for round_ in range(repeats + 1):
        for name, case in bench.cases().items():
            seconds = case()
            if round_:
                times.setdefault(name, []).append(seconds)
    seconds = {name: median(found) for name, found in times.items()}
    saves, loads = seconds["torch.save, synced"], seconds["torch.load and copy"]
    ratios = {name: round(seconds[name] / (loads if "load" in name else saves), 3) for name in GOALS}
    unsynced = {name: round(seconds[name] / seconds["torch.save"], 3) for name in GOALS if "load" not in name}
    return {
        "case": f"checkpoint of {size}: fp32 weights and two moments",
        "gigabytes": round(sum(value.nbytes for value in live.values()) / 1e9, 3),
        "seconds": {name: round(value, 6) for name, value in seconds.items()},
        "spread": {name: [round(min(found), 3), round(max(found), 3)] for name, found in times.items()},
        "ratio_to_raw": ratios,
        "ratio_to_raw_without_sync": unsynced,
        "goals": GOALS,
        "repeats": repeats,
        "environment": describe_environment(),
    }


class _Bench:
    """The cases, each of which returns its seconds."""

    def __init__(self, folder: Path, live: dict[str, torch.Tensor]) -> None:
        self.live, self.raw = live, folder / "raw.pt"
        self.targets = {name: torch.empty_like(value) for name, value in live.items()}
        self.files = _files(live)
        keep = Retention(last=1)
        self.saver = CheckpointSaver(folder / "now", ParallelState(), keep)
        self.behind = CheckpointSaver(folder / "behind", ParallelState(), keep, background=True)
        self.step = 0

    def cases(self) -> dict[str, Callable[[], float]]:
        return {
            "torch.save": lambda: self._raw_save(sync=False),
            "torch.save, synced": lambda: self._raw_save(sync=True),
            "save": lambda: self._save(self.saver),
            "background save, training waits": lambda: self._save(self.behind),
            "copy in memory": self._copy,
            "torch.load and copy": self._raw_load,
            "verified load": self._load,
        }

    def check(self) -> None:
        """What comes back is what was saved."""
        self._save(self.saver)
        self._load()
        assert all(torch.equal(self.targets[name], value) for name, value in self.live.items())

    def _raw_save(self, sync: bool) -> float:
        self.raw.unlink(missing_ok=True)
        os.sync()
        start = perf_counter()
        with open(self.raw, "wb") as file:
            torch.save(self.live, file)
            if sync:
                file.flush()
                os.fsync(file.fileno())
        return perf_counter() - start

    def _save(self, saver: CheckpointSaver) -> float:
        shutil.rmtree(saver.save, ignore_errors=True)
        os.sync()
        self.step += 1
        start = perf_counter()
        saver.start({"iteration": self.step}, self.files)
        seconds = perf_counter() - start
        saver.finish()
        return seconds

    def _copy(self) -> float:
        """What no save in the background can do without."""
        start = perf_counter()
        for name, value in self.live.items():
            self.targets[name].copy_(value)
        return perf_counter() - start

    def _raw_load(self) -> float:
        start = perf_counter()
        for name, value in torch.load(self.raw, weights_only=True).items():
            self.targets[name].copy_(value)
        return perf_counter() - start

    def _load(self) -> float:
        start = perf_counter()
        reader = CheckpointReader(find_checkpoint(self.saver.save))
        for name, target in self.targets.items():
            kind, _, parameter = name.partition("/")
            target.copy_(reader.weight(parameter) if kind == "weight" else reader.optimizer_tensor(parameter, kind))
        return perf_counter() - start


def _tensors(layers: int, width: int, vocabulary: int) -> dict[str, torch.Tensor]:
    """kind/name -> value, for weights, means and mean squares of a Pythia-like model."""
    shapes: dict[str, tuple[int, ...]] = {"embedding.word_embeddings.weight": (vocabulary, width)}
    for layer in range(layers):
        shapes[f"layers.{layer}.attention.query_key_value.weight"] = (3 * width, width)
        shapes[f"layers.{layer}.attention.dense.weight"] = (width, width)
        shapes[f"layers.{layer}.mlp.dense_h_to_4h.weight"] = (4 * width, width)
        shapes[f"layers.{layer}.mlp.dense_4h_to_h.weight"] = (width, 4 * width)
        shapes[f"layers.{layer}.input_layernorm.weight"] = (width,)
    shapes["head.final_linear.weight"] = (vocabulary, width)
    kinds = ("weight", "exp_avg", "exp_avg_sq")
    return {f"{kind}/{name}": torch.randn(shape) for kind in kinds for name, shape in shapes.items()}


def _files(live: dict[str, torch.Tensor]) -> list[TensorFile]:
    def pieces(names: list[str]) -> dict[str, dict[str, Any]]:
        return {
            name: {"name": name.partition("/")[2], "kind": name.partition("/")[0], "shape": list(live[name].shape),
                   "dim": None, "dim_start": 0, "dim_size": 0, "flat_start": 0}
            for name in names
        }  # fmt: skip

    weights = [name for name in live if name.startswith("weight/")]
    moments = [name for name in live if not name.startswith("weight/")]
    return [
        TensorFile(weights_file(0, 0, 0), {name: live[name] for name in weights}, pieces(weights)),
        TensorFile(optimizer_file(0, 0, 0), {name: live[name] for name in moments}, pieces(moments)),
    ]


if __name__ == "__main__":
    main()

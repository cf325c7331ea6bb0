"""Parts (b) and (c) of `data.py`: how soon sample 0 of a Pile is served, and how fast samples come in random order.

The peers do what GPT-NeoX does, step by step, in NumPy. Each case runs in a process of its own.
"""

import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from itertools import count, islice
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from benchmarks.commands import Runs, measure
from megatron.data.index_file import write_index
from megatron.data.schedule import Schedule, read_batches

SEQ = 2048
SEED = 1234
BATCH = 32
START_CASES = ("ours", "neox order", "neox order, cached", "numpy as GPT-NeoX")
ACCESS_CASES = ("ours", "ours, neox order", "as GPT-NeoX", "bare slice", "ours, one at a time")
COLD_CASES = ("ours", "as GPT-NeoX")


def measure_start(folder: Path, documents: int, tokens: int, repeats: int) -> dict[str, Any]:
    """Seconds until sample 0 is served, of a sparse data set of that many documents and tokens."""
    prefix = folder / "pile"
    _make_index(prefix, documents, tokens)
    with open(f"{prefix}.bin", "wb") as file:
        file.truncate(2 * tokens)  # a hole: takes no room
    first = {name: _child("start", name, prefix, tokens // SEQ - 1) for name in START_CASES}
    runs = measure(
        first,
        repeats,
        before=lambda name: _empty(folder / "cache") if name == "neox order" else None,
    )
    outputs = {name: [json.loads(text.splitlines()[-1]) for text in run.outputs] for name, run in runs.items()}
    if len({found["sample"] for name in START_CASES[1:] for found in outputs[name]}) != 1:
        raise SystemExit(f"the orders differ, so nothing was measured: {outputs}")
    ready = {name: round(median(entry["ready_seconds"] for entry in outputs[name]), 3) for name in START_CASES}
    found = {name: {"ready_seconds": ready[name], **run.summary()} for name, run in runs.items()}
    for name, entry in found.items():
        entry["peak_mib"] = max(output["own_peak_mib"] for output in outputs[name])
    return {
        "documents": documents,
        "tokens": tokens,
        "cases": found,
        "goals": {
            "ours, seconds <= 3 at Pile size": ready["ours"],
            "ours, peak MiB <= 1536": found["ours"]["peak_mib"],
            "neox order, seconds <= 15 at Pile size": ready["neox order"],
            "neox order, peak MiB <= 2458": found["neox order"]["peak_mib"],
            "neox order over numpy": round(ready["numpy as GPT-NeoX"] / ready["neox order"], 2),
        },
    }


def measure_access(folder: Path, tokens: int, repeats: int) -> dict[str, Any]:
    """Samples a second in random order with the file in memory, then bytes from disk for each sample without."""
    prefix = folder / "random"
    documents = max(10, tokens // 1541)
    _make_index(prefix, documents, tokens)
    generator = np.random.default_rng(1)
    with open(f"{prefix}.bin", "wb") as file:
        for start in range(0, tokens, 1 << 24):
            length = min(1 << 24, tokens - start)
            file.write(generator.integers(1, 50_000, length, dtype=np.uint16).tobytes())
        file.flush()
        os.fsync(file.fileno())
    samples = (tokens - 1) // SEQ
    warm = measure({name: _child("access", name, prefix, samples) for name in ACCESS_CASES}, repeats)
    found = {name: _median(run) for name, run in warm.items()}
    cold = measure({name: _child("cold", name, prefix, samples) for name in COLD_CASES}, repeats)
    chilled = {name: _median(run) for name, run in cold.items()}
    if (
        found["ours, neox order"]["sum"] != found["as GPT-NeoX"]["sum"]
        or found["ours"]["sum"] != found["bare slice"]["sum"]
    ):
        raise SystemExit(f"the samples differ, so nothing was measured: {found}")
    rate = {name: entry["samples_per_second"] for name, entry in found.items()}
    return {
        "tokens": tokens,
        "warm": found,
        "cold": chilled,
        "goals": {
            "ours over as GPT-NeoX, >= 3 (or the next)": round(rate["ours"] / rate["as GPT-NeoX"], 2),
            "ours over bare slice, >= 0.5": round(rate["ours"] / rate["bare slice"], 2),
            "cold: bytes read for each byte used, <= 3": chilled["ours"]["read_over_used"],
        },
    }


def _median(run: Runs) -> dict[str, Any]:
    """Of the repeats the one with the median rate."""
    results = sorted(
        (json.loads(output.splitlines()[-1]) for output in run.outputs), key=lambda r: r["samples_per_second"]
    )
    middle = results[len(results) // 2]
    return {**middle, "spread": [results[0]["samples_per_second"], results[-1]["samples_per_second"]]}


def _sizes(documents: int, tokens: int) -> np.ndarray:
    """Log-normal document sizes that add up to exactly `tokens`."""
    drawn = np.random.default_rng(1).lognormal(0.0, 1.5, documents)
    ends = np.floor(np.cumsum(drawn) * (tokens / drawn.sum())).astype(np.int64)
    ends[-1] = tokens
    return np.diff(ends, prepend=0).astype(np.int32)


def _make_index(prefix: Path, documents: int, tokens: int) -> None:
    """In a process of its own: what this one ever used would count as memory of every command it starts."""
    measure(
        {"index": [sys.executable, "-m", "benchmarks.data_samples", "index", str(documents), str(prefix), str(tokens)]},
        1,
    )


def _index(documents: str, prefix: str, tokens: int) -> dict[str, Any]:
    with open(f"{prefix}.idx", "wb") as file:
        write_index(file, np.dtype("<u2"), _sizes(int(documents), tokens), None)
    return {}


def _child(part: str, name: str, prefix: Path, samples: int) -> list[str]:
    return [sys.executable, "-m", "benchmarks.data_samples", part, name, str(prefix), str(samples)]


def _empty(folder: Path) -> None:
    for path in sorted(folder.rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()


def _settings(prefix: str, samples: int, order: str) -> Any:
    """A training run over all documents; the model in it is never made."""
    from megatron.neox_arguments.load import arguments_from_texts

    settings: dict[str, Any] = {"data_path": prefix, "split": "1,0,0", "seq_length": SEQ, "seed": SEED}
    settings |= {"data_order": order, "data_cache_path": str(Path(prefix).parent / "cache"), "train_iters": samples}
    settings |= {"num_layers": 1, "hidden_size": 64, "num_attention_heads": 1, "max_position_embeddings": SEQ}
    settings |= {"train_micro_batch_size_per_gpu": 1, "tokenizer_type": "CharLevelTokenizer"}
    settings |= {"optimizer": {"type": "Adam", "params": {"lr": 1e-3}}}
    settings |= {"eval_interval": samples, "eval_iters": 1, "USE_ORIGINAL_FULL_ATTEN": True}
    return arguments_from_texts([("benchmark", json.dumps(settings))], world_size=1)


def _open(settings: Any) -> Any:
    """Our training set, as the trainer opens it."""
    from megatron.data.from_args import datasets_from_args  # imports torch, which the measuring process must not

    return datasets_from_args(settings, 65_536).train.source


def _original(prefix: str) -> tuple[Callable[[int], np.ndarray], Callable[[int], int]]:
    """GPT-NeoX's three arrays and its way to read a sample: documents gathered from a memory map, joined.

    The second function tells where in the file the sample of a position begins, in tokens.
    """
    num = int(np.fromfile(f"{prefix}.idx", "<u8", 1, offset=18)[0])
    sizes = np.memmap(f"{prefix}.idx", "<i4", "r", 34, (num,))
    starts = np.memmap(f"{prefix}.idx", "<i8", "r", 34 + 4 * num, (num,))
    data = np.memmap(f"{prefix}.bin", "<u2", "r")
    samples = (int(np.sum(sizes, dtype=np.int64)) - 1) // SEQ
    generator = np.random.RandomState(SEED)
    doc_idx = np.mgrid[0:1, 0:num][1].astype(np.int32).reshape(-1)
    generator.shuffle(doc_idx)
    ends = np.cumsum(sizes[doc_idx], dtype=np.int64)
    borders = np.arange(samples + 1, dtype=np.int64) * SEQ
    place = np.searchsorted(ends, borders, side="right").astype(np.int32)
    offset = (borders - np.where(place > 0, ends[place - 1], 0)).astype(np.int32)
    shuffle = np.arange(samples, dtype=np.uint32)
    generator.shuffle(shuffle)

    def sample(position: int) -> np.ndarray:
        number = shuffle[position]
        first, last = place[number], place[number + 1]
        parts = []
        for k in range(first, last + 1):
            document = doc_idx[k]
            start = offset[number] if k == first else 0
            stop = offset[number + 1] + 1 if k == last else sizes[document]
            begin = starts[document] // 2
            parts.append(data[begin + start : begin + stop])
        return np.array(np.concatenate(parts), dtype=np.int64)

    def begins(position: int) -> int:
        number = shuffle[position]
        return int(starts[doc_idx[place[number]]]) // 2 + int(offset[number])

    return sample, begins


def _start(name: str, prefix: str, samples: int) -> dict[str, Any]:
    """Where sample 0 begins (its tokens are all 0, those of a hole), and seconds until it was there, imports aside."""
    import megatron.data.from_args  # noqa: F401  so that its time is not counted

    settings = _settings(prefix, samples, "computed" if name == "ours" else "neox")
    clock = time.perf_counter()
    if name == "numpy as GPT-NeoX":
        sample, begins = _original(prefix)
        first = begins(0)
        tokens = sample(0)
    else:
        source = _open(settings)
        tokens = source.read(np.arange(1))[0][0]
        first = int(source.parts[0].stream.pieces(source.locate(np.arange(1))[1]).starts[0])
    assert len(tokens) == SEQ + 1
    return {"sample": first, "ready_seconds": round(time.perf_counter() - clock, 3), "own_peak_mib": _own_peak()}


def _access(name: str, prefix: str, samples: int) -> dict[str, Any]:
    batches = _reader(name, prefix, samples)
    rounds = max(1, min(samples, 20_000) // BATCH)
    for _ in range(2):  # the first pass brings the file into memory
        total, start = 0, time.perf_counter()
        for batch in islice(batches(), rounds):
            total += int(batch[:, ::512].sum())
        seconds = time.perf_counter() - start
    return {"samples_per_second": round(rounds * BATCH / seconds), "sum": total}


def _reader(name: str, prefix: str, samples: int) -> Callable[[], Iterator[np.ndarray]]:
    """Each call begins anew at position 0: batches int64 [BATCH, SEQ + 1]."""
    if name == "as GPT-NeoX":
        sample, _ = _original(prefix)
        return lambda: (np.stack([sample(start + row) for row in range(BATCH)]) for start in count(0, BATCH))
    source = _open(_settings(prefix, samples, "neox" if "neox" in name else "computed"))
    if name == "bare slice":
        data = np.memmap(f"{prefix}.bin", "<u2", "r")
        numbers = source.locate(np.arange(min(samples, 20_000) + BATCH))[1].tolist()

        def slices() -> Iterator[np.ndarray]:
            for start in count(0, BATCH):
                batch = np.empty((BATCH, SEQ + 1), np.int64)
                for row, number in enumerate(numbers[start : start + BATCH]):
                    batch[row] = data[number * SEQ : number * SEQ + SEQ + 1]
                yield batch

        return slices
    if name == "ours, one at a time":
        return lambda: (
            np.stack([source.read(np.array([start + row]))[0][0] for row in range(BATCH)]) for start in count(0, BATCH)
        )
    # As the loader reads.
    return lambda: (found.text for found in read_batches(source, Schedule(0, BATCH, BATCH)))


def _cold(name: str, prefix: str, samples: int) -> dict[str, Any]:
    """Bytes the system reads from disk for a few hundred samples of a file that it holds nothing of."""
    batches = _reader(name, prefix, samples)()
    with open(f"{prefix}.bin", "rb") as file:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    before, start = _disk_bytes(), time.perf_counter()
    rounds = max(1, min(samples, 1600) // BATCH)
    for _ in islice(batches, rounds):
        pass
    seconds = time.perf_counter() - start
    used = rounds * BATCH * (SEQ + 1) * 2
    return {
        "samples_per_second": round(rounds * BATCH / seconds),
        "bytes_per_sample": round((_disk_bytes() - before) / (rounds * BATCH)),
        "read_over_used": round((_disk_bytes() - before) / used, 2),
    }


def _own_peak() -> float:
    """MiB; the system's count for a finished child includes what its parent held when it was started."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return round(int(next(line for line in lines if line.startswith("VmHWM")).split()[1]) / 1024, 1)


def _disk_bytes() -> int:
    facts = dict(line.split(": ") for line in Path("/proc/self/io").read_text(encoding="utf-8").splitlines())
    return int(facts["read_bytes"])


if __name__ == "__main__":
    part, case, *rest = sys.argv[1:]
    result = {"index": _index, "start": _start, "access": _access, "cold": _cold}[part](case, rest[0], int(rest[1]))
    print(json.dumps(result))

"""Part (d) of `data.py`: the tools that read whole data sets, beside `cat` and `sha256sum` of the same files."""

import sys
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.commands import measure, sha256_of

SHARDS = 4


def measure_tools(folder: Path, tokens: int, threads: int, repeats: int) -> dict[str, Any]:
    """Seconds of each tool and of its peer, files in memory; what they print or write is compared first."""
    prefix, joined = folder / "random", folder / "joined"
    if not Path(f"{prefix}.bin").exists():
        _make(prefix, tokens)
    shards, tiny = folder / "shards", folder / "tiny"
    _make(tiny, 1000)
    python = [sys.executable]
    commands = {
        "shard": [
            *python,
            "tools/datasets/shard_memmap.py",
            "--input_file",
            f"{prefix}.bin",
            "--output_dir",
            str(shards),
        ],
        "list": [*python, "tools/datasets/checksum_shards.py", "--input_dir", str(shards), "--write"],
    }
    size = Path(f"{prefix}.bin").stat().st_size
    commands["shard"] += ["--shard_size", str(size // SHARDS // 2 * 2 + 2)]
    measure(commands, 1)
    files = sorted(shards.glob("*.bin"))
    names = " ".join(f"'{path}'" for path in files)
    joined.mkdir(exist_ok=True)
    cases = {
        "check_data": [*python, "tools/datasets/check_data.py", str(prefix), "--vocab-size", "50277", "--no-eod"],
        "check_data, nothing to read": [
            *python, "tools/datasets/check_data.py", str(tiny), "--vocab-size", "50277", "--no-eod"
        ],
        "cat": ["sh", "-c", f"cat '{prefix}.bin' > /dev/null"],
        "cat to a file": ["sh", "-c", f"cat {names} > '{joined / 'cat.bin'}'"],
        "unshard": [*python, "tools/datasets/unshard_memmap.py", "--input_file", str(files[0]),
            "--output_dir", str(joined)],
        "sha256sum": ["sha256sum", *map(str, files)],
        "checksum": [*python, "tools/datasets/checksum_shards.py", "--input_dir", str(shards),
            "--workers", str(threads)],
        "checksum, one thread": [
            *python, "tools/datasets/checksum_shards.py", "--input_dir", str(shards), "--workers", "1"
        ],
    }  # fmt: skip

    def before(name: str) -> None:
        for path in joined.iterdir():
            path.unlink()

    def after(name: str) -> None:
        made = sorted(joined.glob("*.bin"))
        if made and made[0].stat().st_size != size:
            raise SystemExit(f"{name} wrote {made[0].stat().st_size} bytes, expected {size}")

    # Equal results first, then the clock.
    measure({name: cases[name] for name in ("unshard", "checksum")}, 1)
    if sha256_of(next(joined.glob("*.bin"))) != sha256_of(Path(f"{prefix}.bin")):
        raise SystemExit("the joined file differs from the original, so nothing was measured")
    runs = measure(cases, repeats, before=before, after=after)
    found = {name: run.summary() for name, run in runs.items()}
    for entry in found.values():
        entry["gb_per_second"] = round(size / 1e9 / entry["seconds"], 2)
    peers = {
        "check_data": "cat",
        "unshard": "cat to a file",
        "checksum": "sha256sum",
        "checksum, one thread": "sha256sum",
    }
    return {
        "bytes": size,
        "cases": found,
        "check_data over cat, less the start of Python": round(
            found["cat"]["seconds"]
            / max(1e-3, found["check_data"]["seconds"] - found["check_data, nothing to read"]["seconds"]),
            2,
        ),
        "goals": {
            f"{name} over {peer}, >= 0.8": round(found[peer]["seconds"] / found[name]["seconds"], 2)
            for name, peer in peers.items()
        },
    }


def _make(prefix: Path, tokens: int) -> None:
    from megatron.data.indexed_dataset import IndexedDatasetWriter

    generator = np.random.default_rng(1)
    with IndexedDatasetWriter(prefix, vocab_size=50_277) as writer:
        for start in range(0, tokens, 1 << 22):
            count = min(1 << 22, tokens - start)
            writer.add_document(generator.integers(1, 50_000, count, dtype=np.uint16))

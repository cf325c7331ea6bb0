"""The data side beside its peers: text to tokens, start-up at Pile size, samples in random order, whole-file tools.

python benchmarks/data.py --text FOLDER --tokenizer tokenizer.json --out benchmarks/results/data-cpu.json
Checks every result first, times all cases in turn, prints ratios, writes JSON. Needs about 10 GB in --folder.
"""

import argparse
import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

# Runs from a plain clone, without installation.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.data_preprocess import measure_preprocessing
from benchmarks.data_samples import measure_access, measure_start
from benchmarks.data_tools import measure_tools

PARTS = ("preprocess", "start", "access", "tools")


def main(argv: list[str] | None = None) -> int:
    """Returns 0 even where a goal is missed: the table says so."""
    flags = _parse(argv)
    report: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(dir=flags.folder) as name:
        folder = Path(name)
        for part in flags.parts:
            report[part] = {**_measure(part, flags, folder), "load_average": round(os.getloadavg()[0], 2)}
            _show(part, report[part])
    # Imports torch, whose memory would count as that of the commands: a new process starts as its parent's copy.
    from benchmarks.environment import describe_environment

    report = {"environment": describe_environment(), "threads": flags.threads, **report}
    if flags.out:
        flags.out.parent.mkdir(parents=True, exist_ok=True)
        flags.out.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    return 0


def _measure(part: str, flags: argparse.Namespace, folder: Path) -> dict[str, Any]:
    if part == "preprocess":
        return measure_preprocessing(folder, flags.text, flags.tokenizer, flags.megabytes, flags.threads, flags.repeats)
    if part == "start":
        found = measure_start(folder, flags.documents, flags.tokens, flags.repeats)
        for path in folder.glob("pile.*"):
            path.unlink()
        return found
    if part == "access":
        return measure_access(folder, flags.file_tokens, flags.repeats)
    return measure_tools(folder, flags.file_tokens, flags.threads, flags.repeats)


def _show(part: str, found: dict[str, Any]) -> None:
    print(part)
    for name, value in found["goals"].items():
        print(f"  {name}: {value}")
    for kind in ("cases", "warm", "cold"):
        for name, entry in found.get(kind, {}).items():
            print(f"  {kind} {name}: " + ", ".join(f"{key} {value}" for key, value in entry.items()))
    sys.stdout.flush()


def _parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--text", type=Path, help="folder of .txt books to cut documents from (else: made of words)")
    parser.add_argument("--tokenizer", type=Path, help="tokenizer.json, needed for the part preprocess")
    parser.add_argument("--megabytes", type=float, default=200.0, help="text to tokenise (200)")
    parser.add_argument("--documents", type=int, default=134_318_121, help="of the simulated Pile")
    parser.add_argument("--tokens", type=int, default=207_000_000_000, help="of the simulated Pile")
    parser.add_argument("--file-tokens", type=int, default=1_000_000_000, help="of the real file (access, tools)")
    parser.add_argument("--threads", type=int, default=4)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--folder", type=Path, help="where to put the files meanwhile (the system's)")
    parser.add_argument("--out", type=Path, help="result file")
    flags = parser.parse_args(argv)
    if "preprocess" in flags.parts and flags.tokenizer is None:
        parser.error("--tokenizer is needed for the part preprocess")
    return flags


if __name__ == "__main__":
    sys.exit(main())

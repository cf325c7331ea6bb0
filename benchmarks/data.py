"""The data side beside its peers: text to tokens, start-up at Pile size, samples in random order, whole-file tools.

python benchmarks/data.py --text FOLDER --tokenizer tokenizer.json --out benchmarks/results/data-cpu.json
Checks every result first, times all cases in turn, prints ratios, writes JSON. Needs about 10 GB in --folder.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

# Runs from a plain clone, without installation.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.commands import ROOT
from benchmarks.data_preprocess import measure_preprocessing
from benchmarks.data_samples import measure_access, measure_start
from benchmarks.data_tools import measure_tools

PARTS = ("preprocess", "start", "access", "tools")


def main(argv: list[str] | None = None) -> int:
    """Returns 0 even where a goal is missed: the table says so."""
    flags = _parse(argv)
    with tempfile.TemporaryDirectory(dir=flags.folder) as name:
        for part in flags.parts:
            environment = _environment(flags, argv)
            found = {**_measure(part, flags, Path(name)), "environment": environment}
            _show(part, found)
            if flags.out:
                _keep(flags.out, part, found)
    return 0


def _environment(flags: argparse.Namespace, argv: list[str] | None) -> dict[str, Any]:
    """From a process of its own: it imports torch, and what this one holds would count as memory of its commands."""
    code = "import json, benchmarks.environment as e; print(json.dumps(e.describe_environment()))"
    answer = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    given = ["data.py", *(sys.argv[1:] if argv is None else argv)]
    return {**json.loads(answer.stdout), "argv": given, "threads": flags.threads}


def _keep(path: Path, part: str, found: dict[str, Any]) -> None:
    """Each part is a measurement of its own: the others in the file stay as they are."""
    path.parent.mkdir(parents=True, exist_ok=True)
    report = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    path.write_text(json.dumps({**report, part: found}, indent=2) + "\n", encoding="utf-8")


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

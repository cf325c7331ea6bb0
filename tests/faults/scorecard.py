"""Runs the fault tests and writes their results: benchmarks/results/faults.json, and the table of docs/reliability.md.

python -m tests.faults.scorecard              all of them, a few minutes
python -m tests.faults.scorecard -k clocks    some of them; the other results stay
"""

import json
import os
import re
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parents[2]
RESULTS_VARIABLE = "FAULT_RESULTS"
RESULTS = REPOSITORY / "benchmarks" / "results" / "faults.json"
PAGE = REPOSITORY / "docs" / "reliability.md"
FOLDERS = [str(REPOSITORY / "tests" / folder) for folder in ("faults", "multinode")]
BEGIN, END = "<!-- table of results: begin -->", "<!-- table of results: end -->"

# Row -> (the fault, what must happen).
ROWS = {
    "S1": ("SIGKILL at every file event of a save", "the old or the new step, bit-equal"),
    "S2": ("one rank stalls in a save, all are killed", "all ranks take the same older step"),
    "S3": ("`load` set, nothing usable", "stop, exit code 4, says what is there"),
    "S4": ("a bit flipped, a file cut, a page zeroed", "found before a weight is used; the one before is loaded"),
    "S5": (
        "disk full, quota, I/O error, byte limit",
        "older ones whole, no stub left, bytes in the message",
    ),
    "S6": ("no room for the first save", "refused before step 1"),
    "S7": ("folders that look like ours, trailing slash, kill while deleting", "only ours deleted, right count kept"),
    "S8": ("stop and resume, dropout on", "losses and weights bit-equal over 50 steps"),
    "S9": ("resume at 1-4 ranks, other splits, other accumulation", "same samples; losses within 1e-6"),
    "S10": ("any setting changed between save and resume", "stop, or said and in force"),
    "A1": ("save in the background while training goes on", "the tensors of the step; a failure stops the run"),
    "S19": ("NaN gradient on one rank", "no rank updates, nothing of it is saved, exit code 5"),
    "S20": ("loss spike", "flagged at its step; skipped ranges and going back work"),
    "S21": ("a rank is killed (SIGKILL)", "all gone within the limit + 5 s, exit code 6, resumes"),
    "S22": (
        "a rank hangs (SIGSTOP) in start, train, evaluation, save",
        "as S21, with the others' stacks (s: past the limit)",
    ),
    "S23": ("SIGTERM, SIGINT, SIGUSR1 to launcher or rank at 8 moments", "saved at a step edge, exit 75, no orphans"),
    "S24": ("the same crash again and again", "three times without progress, then no more"),
    "S25": (
        "two runs, one save folder",
        "the second is refused; a dead run's lock goes to one; who lost the folder saves no more",
    ),
    "S26": ("stop one of two runs on a host", "the other does not notice"),
    "S27": ("clock set back, other time zone, late file system", "same choice; a clear wait"),
    "S28": ("read-only data, unwritable save (not root)", "works; refused before step 1"),
    "S29": ("malicious file for every reader", "no code runs"),
    "S30": (
        "hostile arguments, settings, variables, folders, hostfiles; 8 ways to start",
        "byte-equal, nothing else runs",
    ),
    "S31": ("canary secrets in environment and settings", "0 hits in files, output, argv of any process"),
    "S33": ("tracker refuses or never answers", "run unaffected, local log whole"),
    "N1": (
        "one of two hosts is killed, frozen or cut off, at 6 moments; the first one killed",
        "all others end, exit code 6, exact resume",
    ),
    "A2": ("one replica's weight differs in one bit", "named at the next save, which is not made"),
}


def scoring() -> bool:
    """True while the results are made: then a goal in seconds counts. A mere test leaves a busy machine more."""
    return RESULTS_VARIABLE in os.environ


def table(results: dict[str, Any]) -> str:
    """The rows as Markdown."""
    lines = ["| | fault | required | held | a naive version |", "|---|---|---|---|---|"]
    for row, (fault, required) in ROWS.items():
        found = [result for result in results["rows"] if result["row"] == row]
        if not found:
            continue
        held, tried = (sum(result[key] for result in found) for key in ("held", "tried"))
        naive = "; ".join(dict.fromkeys(result["naive"] for result in found if result["naive"]))
        seconds = [one for result in found for one in result.get("seconds", [])]
        measured = f" ({min(seconds)} to {max(seconds)} s)" if seconds else ""
        lines.append(f"| {row} | {fault} | {required} | {held}/{tried}{measured} | {naive} |")
    return "\n".join(lines)


def page_with(results: dict[str, Any], page: str) -> str:
    """The page with the table between its two marks."""
    pattern = re.compile(re.escape(BEGIN) + ".*?" + re.escape(END), re.DOTALL)
    return pattern.sub(lambda _: f"{BEGIN}\n{table(results)}\n{END}", page)


def main() -> int:
    import pytest

    from benchmarks.environment import describe_environment

    start = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        os.environ[RESULTS_VARIABLE] = folder
        code = int(pytest.main(["-q", "-n", "4", "--dist", "loadgroup", *FOLDERS, *sys.argv[1:]]))
        rows = [json.loads(path.read_text()) for path in sorted(Path(folder).iterdir())]
    before = json.loads(RESULTS.read_text(encoding="utf-8"))["rows"] if RESULTS.exists() else []
    tests = {row["test"] for row in rows}
    rows += [row for row in before if row["test"] not in tests]  # of tests that were not asked for this time
    results = {
        "rows": sorted(rows, key=lambda row: (list(ROWS).index(row["row"]), row["test"])),
        "seconds": round(time.monotonic() - start),
        "environment": describe_environment(),
    }
    RESULTS.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    PAGE.write_text(page_with(results, PAGE.read_text(encoding="utf-8")), encoding="utf-8")
    return code


if __name__ == "__main__":
    sys.exit(main())

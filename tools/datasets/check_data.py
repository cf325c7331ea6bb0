"""Look through all tokens before a run does: every id in the vocabulary, documents that end, sets that do not overlap.

python tools/datasets/check_data.py data/corpus_text_document --tokenizer-type HFTokenizer --vocab-file tokenizer.json
python tools/datasets/check_data.py --config configs/pythia.yml configs/data.yml
"""

import argparse
import os
import sys
from dataclasses import dataclass
from pathlib import Path

# Runs from a plain clone, without installation.
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
# NumPy starts threads for linear algebra, of which there is none here: without them the tool starts in half the time.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

from megatron.data.check import check_tokens, end_problem
from megatron.data.indexed_dataset import IndexedDataset
from megatron.data.progress import ByteProgress
from megatron.errors import DataError, SettingsError
from megatron.launcher.entry import run_main

_EPILOG = """\
The first id outside of the vocabulary is told with its file, byte, token and document. With --config all data sets of
the settings are checked, and whether training, validation and test share documents or equal texts.
exit codes: 0 all well, 2 usage or settings, 3 something is wrong with the data (all findings are printed)."""


@dataclass(frozen=True)
class Ids:
    """What ids there may be, and which ends a document (None: not looked for)."""

    vocab_size: int
    eod: int | None


def main() -> None:
    """Parse the flags, check, print a line for each finding."""
    flags = _parser().parse_args()
    if bool(flags.prefix) == bool(flags.config):
        raise SettingsError("give either data sets or --config with settings files.")
    problems = _check_settings(flags) if flags.config else _check_prefixes(flags)
    if problems:
        raise DataError("\n".join(problems))
    print("all well")


def _check_prefixes(flags: argparse.Namespace) -> list[str]:
    ids = _ids(flags.vocab_size, flags.tokenizer_type, flags.vocab_file, flags.merge_file, flags)
    return [problem for prefix in flags.prefix for problem in _check(prefix, ids, flags.labels, flags.workers)]


def _check_settings(flags: argparse.Namespace) -> list[str]:
    from megatron.data.disjoint import equal_texts, ranges_from_args, shared_documents
    from megatron.neox_arguments.load import load_arguments

    args = load_arguments(flags.config, flags.set)
    ids = _ids(flags.vocab_size, args.tokenizer_type, args.vocab_file, args.merge_file, flags)
    ranges = ranges_from_args(args)
    problems = []
    for prefix in dict.fromkeys(str(part.dataset.prefix) for part in ranges):
        problems += _check(prefix, ids, False, flags.workers)
    for prefixes in (args.train_label_data_paths, args.valid_label_data_paths, args.test_label_data_paths):
        for prefix in prefixes or ():
            problems += _check(prefix, ids, True, flags.workers)
    for part in ranges:
        print(f"{part.name}: {part.dataset.prefix}, documents {part.first} to {part.last - 1}")
    shared = shared_documents(ranges)
    if not shared:
        print("no document is in two sets")
    if flags.allow_overlap:
        for line in shared:
            print(f"allowed: {line}")
    else:
        problems += [f"{line} (--allow-overlap where this is meant)." for line in shared]
    if flags.no_compare:
        return problems
    progress = ByteProgress(sum(part.dataset.token_file.num_bytes for part in ranges), "compare texts")
    for found in equal_texts(ranges, progress.add):
        print(f"{found.name}: {found.count} of {found.documents} documents have an equal in {found.other}")
    return problems


def _check(prefix: str, ids: Ids, labels: bool, workers: int) -> list[str]:
    """Findings about one data set; an id outside the vocabulary ends the search in that set, not in the others."""
    try:
        dataset = IndexedDataset(prefix)
        progress = ByteProgress(dataset.token_file.num_bytes, f"check {prefix}")
        eod = None if labels else ids.eod
        findings = check_tokens(dataset, ids.vocab_size, eod, labels=labels, workers=workers, progress=progress.add)
    except DataError as error:
        return [str(error)]
    ends = "" if eod is None else f", {findings.closed_documents:,} of them closed by id {eod}"
    print(
        f"{prefix}: {dataset.num_documents:,} documents{ends}, {dataset.num_tokens:,} tokens, largest id "
        f"{findings.largest_id} of {ids.vocab_size} ({progress.gigabytes_per_second:.2f} GB/s)"
    )
    problem = None if eod is None else end_problem(dataset, findings, eod)
    return [problem] if problem else []


def _ids(
    vocab_size: int | None, kind: str | None, vocab_file: str | None, merge_file: str | None, flags: argparse.Namespace
) -> Ids:
    """From --vocab-size and --eod, or from the tokenizer."""
    if vocab_size is not None:
        return Ids(vocab_size, None if flags.no_eod else flags.eod)
    if kind is None:
        raise SettingsError("which ids are allowed? Give --tokenizer-type and --vocab-file, or --vocab-size.")
    from megatron.tokenizer.tokenizer import build_tokenizer

    tokenizer = build_tokenizer(kind, vocab_file, merge_file)
    eod = tokenizer.eod if flags.eod is None else flags.eod
    return Ids(tokenizer.vocab_size, None if flags.no_eod else eod)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=_EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("prefix", nargs="*", help="path of a data set without .bin or .idx; shards are read in place")
    parser.add_argument("--config", nargs="+", metavar="YAML", help="settings files: check all that they name")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="override a setting")
    parser.add_argument("--labels", action="store_true", help="the data sets hold labels: -100 is allowed")
    parser.add_argument("--workers", type=int, default=min(2, os.cpu_count() or 1), help="threads (2)")
    ids = parser.add_argument_group("ids")
    ids.add_argument("--vocab-size", type=int, help="ids are below this (else: the tokenizer's)")
    ids.add_argument("--eod", type=int, help="id that ends a document (else: the tokenizer's)")
    ids.add_argument("--no-eod", action="store_true", help="documents need not end with it, as in the Pile of Pythia")
    ids.add_argument("--tokenizer-type")
    ids.add_argument("--vocab-file")
    ids.add_argument("--merge-file")
    parser.add_argument(
        "--no-compare", action="store_true", help="do not look for equal texts in two sets (slow: 0.2 GB/s)"
    )
    parser.add_argument("--allow-overlap", action="store_true", help="training data may be validation data too")
    return parser


if __name__ == "__main__":
    run_main(main)

"""Show what is in a data set before training on it: figures, samples, signs of damage, what a window will keep.

python tools/datasets/inspect_dataset.py data/corpus_text_document --tokenizer-type HFTokenizer --vocab-file 20B.json
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

# Runs from a plain clone, without installation.
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from megatron.data.indexed_dataset import IndexedDataset
from megatron.data.inspection import Inspection, inspect, rows_of, stretches
from megatron.data.progress import ByteProgress
from megatron.data.text_signals import look_for_signs
from megatron.launcher.entry import run_main
from megatron.tokenizer.tokenizer import TOKENIZER_TYPES, Tokenizer, build_tokenizer

SEPARATORS = ".,?!;: \\t\\n"
_EPILOG = """\
Without a tokenizer there are figures only. Shares above --alarm are marked with LOOK. The kept share is that of the
query-key pairs of full attention, averaged over rows of --seq-length tokens.
exit codes: 0 done, 2 usage or settings, 3 the data set is missing or damaged."""


def main() -> None:
    """Parse the flags, look, print."""
    flags = _parser().parse_args()
    dataset = IndexedDataset(flags.prefix)
    tokenizer = None
    if flags.tokenizer_type:
        tokenizer = build_tokenizer(flags.tokenizer_type, flags.vocab_file, flags.merge_file)
    progress = ByteProgress(min(dataset.num_tokens, flags.max_tokens) * dataset.dtype.itemsize, "inspect")
    found = inspect(dataset, flags.max_tokens, progress.add)
    report = _figures(dataset, found, tokenizer)
    separators = _separators(flags, tokenizer)
    if separators and dataset.num_tokens:
        report["separators"] = _kept(dataset, found, separators, flags)
    if tokenizer is not None:
        report["signs"] = _signs(dataset, tokenizer, flags)
        report["samples"] = _samples(dataset, tokenizer, flags.samples, flags.sample_tokens)
    if flags.json:
        print(json.dumps(report, ensure_ascii=False))
    else:
        _show(report, flags.alarm)


def _figures(dataset: IndexedDataset, found: Inspection, tokenizer: Tokenizer | None) -> dict[str, Any]:
    frequent = [
        {"id": i, "share": share, **({"text": tokenizer.detokenize([i], keep_special=True)} if tokenizer else {})}
        for i, share in found.most_frequent(12)
    ]
    report: dict[str, Any] = {
        "prefix": str(dataset.prefix),
        "dtype": dataset.dtype.name,
        "bytes": dataset.token_file.num_bytes,
        "files": len(dataset.token_file.paths),
        "documents": found.documents,
        "empty_documents": found.empty_documents,
        "sequences": found.sequences,
        "tokens": found.tokens,
        "lengths": found.lengths,
        "looked_at": found.looked_at,
        "largest_id": len(found.ids) - 1 if len(found.ids) else None,
        "distinct_ids": found.distinct_ids,
        "most_frequent": frequent,
        "compared_documents": found.compared_documents,
        "repeated_documents": found.repeated_documents,
        "repeats": found.repeats,
    }
    if tokenizer is not None:
        report["vocab_size"] = tokenizer.vocab_size
        report["eod_share"] = found.share_of([tokenizer.eod])
    return report


def _separators(flags: argparse.Namespace, tokenizer: Tokenizer | None) -> list[int]:
    """Ids given, or those of the separator characters that are single tokens of the tokenizer."""
    if flags.separator_token_ids:
        return list(flags.separator_token_ids)
    if tokenizer is None:
        return []
    found = []
    for character in flags.separators.encode().decode("unicode_escape"):
        ids = tokenizer.tokenize(character)
        if len(ids) == 1:
            found += ids
        elif not flags.json:
            print(f"the separator {character!r} is {len(ids)} tokens for this tokenizer and is left out")
    return found


def _kept(
    dataset: IndexedDataset, found: Inspection, separators: list[int], flags: argparse.Namespace
) -> dict[str, Any]:
    """The share of separators, and what attention with each window keeps, by the rule that training uses."""
    import torch

    from sepllm.attention.plan import build_plan
    from sepllm.attention.statistics import kept_ratio
    from sepllm.config import SepConfig

    rows = torch.from_numpy(rows_of(dataset, flags.seq_length, flags.rows))
    kept = {}
    for window in flags.windows:
        config = SepConfig(separators=separators, init_tokens=flags.init_tokens, window=window)
        kept[str(window)] = float(kept_ratio(build_plan(config, rows)))
    share = found.share_of(separators)
    return {"ids": separators, "share": share, "seq_length": rows.shape[1], "rows": rows.shape[0], "kept": kept}


def _signs(dataset: IndexedDataset, tokenizer: Tokenizer, flags: argparse.Namespace) -> dict[str, Any]:
    numbers = _spread(dataset, flags.max_tokens, flags.decode_documents)
    texts = ((number, tokenizer.detokenize(dataset.document(number)[:4096].tolist())) for number in numbers)
    looked_at, signs = look_for_signs(texts)
    return {"documents": looked_at, "found": [vars(sign) for sign in signs if sign.documents]}


def _samples(dataset: IndexedDataset, tokenizer: Tokenizer, count: int, length: int) -> list[dict[str, Any]]:
    samples = []
    for number in _spread(dataset, dataset.num_tokens, count):
        ids = dataset.document(number).tolist()
        text = tokenizer.detokenize(ids[:length], keep_special=True)
        samples.append({"document": number, "tokens": len(ids), "text": text})
    return samples


def _spread(dataset: IndexedDataset, max_tokens: int, count: int) -> list[int]:
    """Up to `count` documents, evenly spread."""
    numbers = [range(first, last) for first, last in stretches(dataset, max_tokens)]
    total = sum(map(len, numbers))
    joined = [number for part in numbers for number in part[:: max(1, -(-total // max(1, count)))]]
    return joined[:count]


def _show(report: dict[str, Any], alarm: float) -> None:
    part = "" if report["looked_at"] == report["tokens"] else f" (looked at {report['looked_at']:,})"
    print(f"{report['prefix']}: {report['bytes']:,} bytes of {report['dtype']} in {report['files']} file(s)")
    print(
        f"  {report['documents']:,} documents, {report['empty_documents']:,} empty, {report['tokens']:,} tokens{part}"
    )
    print("  tokens a document: " + ", ".join(f"{name} {value:,.0f}" for name, value in report["lengths"].items()))
    of_vocabulary = f" of {report['vocab_size']:,}" if "vocab_size" in report else ""
    print(f"  {report['distinct_ids']:,} different ids{of_vocabulary}, the largest {report['largest_id']}")
    for entry in report["most_frequent"]:
        print(f"    {entry['id']:>7}  {entry['share']:7.2%}  {entry.get('text', '')!r}")
    if "eod_share" in report:
        mark = "LOOK: " if not report["eod_share"] else ""
        print(f"  {mark}end of document: {report['eod_share']:.3%} of the tokens")
    share = report["repeated_documents"] / max(1, report["compared_documents"])
    pairs = ", ".join(f"{one} = {other}" for one, other in report["repeats"])
    mark = "LOOK: " if share > alarm else ""
    print(f"  {mark}documents equal to an earlier one: {share:.2%}{f' ({pairs})' if pairs else ''}")
    if "separators" in report:
        found = report["separators"]
        print(
            f"  separators: {found['share']:.2%} of the tokens; pairs kept at {found['seq_length']} tokens by window:"
        )
        print("    " + ", ".join(f"{window}: {kept:.1%}" for window, kept in found["kept"].items()))
    if "signs" in report:
        found = report["signs"]
        print(f"  signs of damage in {found['documents']:,} decoded documents: {'none' if not found['found'] else ''}")
        for sign in found["found"]:
            share = sign["documents"] / found["documents"]
            mark = "LOOK: " if share > alarm else ""
            print(f"    {mark}{sign['name']} {share:.1%}: {sign['meaning']} (first: document {sign['first']})")
        for sample in report["samples"]:
            print(f"--- document {sample['document']}, {sample['tokens']:,} tokens\n{sample['text']}")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=_EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("prefix", help="path of a data set without .bin or .idx; shards are read in place")
    parser.add_argument("--json", action="store_true", help="one JSON object instead of text")
    parser.add_argument("--max-tokens", type=_positive, default=200_000_000, help="look at so many, spread (200000000)")
    parser.add_argument("--alarm", type=float, default=0.01, help="shares above this are marked with LOOK (0.01)")
    tokens = parser.add_argument_group("tokenizer")
    tokens.add_argument("--tokenizer-type", choices=list(TOKENIZER_TYPES))
    tokens.add_argument("--vocab-file")
    tokens.add_argument("--merge-file")
    tokens.add_argument("--samples", type=int, default=3, help="documents shown (3)")
    tokens.add_argument("--sample-tokens", type=_positive, default=100, help="tokens shown of each (100)")
    tokens.add_argument("--decode-documents", type=_positive, default=2000, help="looked at for signs of damage (2000)")
    rule = parser.add_argument_group("separator attention")
    rule.add_argument("--separators", default=SEPARATORS, help=f"characters ({SEPARATORS})")
    rule.add_argument("--separator-token-ids", type=int, nargs="+", metavar="ID", help="ids in place of characters")
    rule.add_argument("--init-tokens", type=int, default=3, help="first tokens that stay visible (3)")
    rule.add_argument("--windows", type=_positive, nargs="+", default=[64, 128, 256, 512], help="(64 128 256 512)")
    rule.add_argument("--seq-length", type=_positive, default=2048, help="tokens of a row (2048)")
    rule.add_argument("--rows", type=_positive, default=64, help="rows that the kept share is averaged over (64)")
    return parser


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"expected 1 or more, found {value}")
    return value


if __name__ == "__main__":
    run_main(main)

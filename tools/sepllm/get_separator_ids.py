"""Propose separator ids for a tokenizer, with their share in a text and the attention they leave per window.

python tools/sepllm/get_separator_ids.py --tokenizer FOLDER_OR_JSON [--text FILE] [--separators . , "\\n"]
Works for any Hugging Face tokenizer; shows merged forms such as " ." and "\\n\\n" beside the plain ones.
"""

import argparse
import json
import sys
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# Runs from a plain clone, without installation.
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from megatron.errors import DataError, SettingsError
from megatron.launcher.entry import run_main
from tools.sepllm.vocabulary import Vocabulary, read_vocabulary

# The nine of the published models, as text.
DEFAULT_SEPARATORS = (".", ",", "?", "!", ";", ":", " ", "\t", "\n")


@dataclass(frozen=True)
class Candidate:
    """A token that can stand for a separator. plain: it is one of the wanted strings; otherwise a merged form."""

    id: int
    text: str
    plain: bool
    count: int = 0


def main() -> None:
    """Read the tokenizer, look through its vocabulary and the text, print a table or JSON."""
    flags = _parser().parse_args()
    separators = [_unescape(text) for text in flags.separators]
    vocabulary = read_vocabulary(flags.tokenizer)
    ids = [] if flags.text is None else vocabulary.encode(_read(flags.text))
    candidates = find_candidates(vocabulary, separators, ids)
    if not candidates:
        raise SettingsError(f"--separators: no token of {flags.tokenizer} consists of {separators} alone.")
    report = _report(flags, candidates, separators, ids)
    print(json.dumps(report, indent=1, ensure_ascii=False) if flags.json else _in_words(flags, report))


def find_candidates(vocabulary: Vocabulary, separators: list[str], ids: list[int]) -> list[Candidate]:
    """Tokens made of separators and blanks alone, the plain ones first, each kind by how often it occurs in `ids`.

    A token of blanks alone counts only where a blank is among the separators.
    """
    counts = Counter(ids)
    allowed = set("".join(separators)) | {" "}
    found = [
        Candidate(number, text, text in separators, counts[number])
        for number, text in vocabulary.pieces.items()
        if text and set(text) <= allowed and any(separator in text for separator in separators)
    ]
    return sorted(found, key=lambda candidate: (not candidate.plain, -candidate.count, candidate.id))


def kept_ratios(
    ids: list[int], separators: list[int], windows: list[int], seq_length: int, init_tokens: int
) -> dict[int, float]:
    """By window: kept pairs over those of full attention, in the text cut into rows of seq_length tokens."""
    import torch

    from sepllm.attention.plan import build_plan
    from sepllm.attention.statistics import kept_ratio
    from sepllm.config import SepConfig

    length = min(seq_length, len(ids))
    rows = torch.tensor(ids[: len(ids) // length * length]).view(-1, length)
    found = {}
    for window in windows:
        config = SepConfig(separators=separators, window=window, init_tokens=init_tokens)
        found[window] = kept_ratio(build_plan(config, rows)).item()
    return found


def _report(
    flags: argparse.Namespace, candidates: list[Candidate], separators: list[str], ids: list[int]
) -> dict[str, Any]:
    plain = [candidate.id for candidate in candidates if candidate.plain]
    both = [candidate.id for candidate in candidates if candidate.plain or candidate.count or not ids]
    lists = {"plain": plain, "plain_and_merged": both}
    report: dict[str, Any] = {
        "separator_token_ids": lists,
        "without_a_token_of_their_own": [s for s in separators if s not in {c.text for c in candidates if c.plain}],
        "candidates": [vars(candidate) for candidate in candidates],
    }
    if ids:
        report["tokens_in_text"] = len(ids)
        report["share"] = {
            name: sum(candidate.count for candidate in candidates if candidate.id in set(chosen)) / len(ids)
            for name, chosen in lists.items()
        }
        report["seq_length"] = min(flags.seq_length, len(ids))
        report["kept_ratio"] = {
            name: kept_ratios(ids, chosen, flags.windows, flags.seq_length, flags.init_tokens)
            for name, chosen in lists.items()
            if chosen
        }
    return report


def _in_words(flags: argparse.Namespace, report: dict[str, Any]) -> str:
    total = report.get("tokens_in_text")
    lines = [f"{'id':>8}  {'token':<14} {'form':<7}" + (f" {'count':>8} {'share':>8}" if total else "")]
    shown = [c for c in report["candidates"] if c["plain"] or not total or c["count"]]
    for candidate in shown[: flags.most]:
        line = f"{candidate['id']:>8}  {candidate['text']!r:<14} {'plain' if candidate['plain'] else 'merged':<7}"
        lines.append(line + (f" {candidate['count']:>8} {candidate['count'] / total:>8.2%}" if total else ""))
    if len(shown) > flags.most:
        lines.append(f"{'':>8}  and {len(shown) - flags.most} more merged forms (--most, or --json for all)")
    for missing in report["without_a_token_of_their_own"]:
        lines.append(f"{missing!r} has no token of its own in this tokenizer")
    for name, ids in report["separator_token_ids"].items():
        if not ids:
            continue
        lines += ["", f"{name.replace('_', ' ')}:"]
        if total:
            kept = ", ".join(f"{window}: {ratio:.1%}" for window, ratio in report["kept_ratio"][name].items())
            lines.append(
                f"  {report['share'][name]:.2%} of {total} tokens; kept of full attention in rows of "
                f"{report['seq_length']} tokens, by window: {kept}"
            )
        listed = ids if len(ids) <= flags.most else [*ids[: flags.most], f"... {len(ids) - flags.most} more"]
        lines.append(f"  separator_token_ids: [{', '.join(map(str, listed))}]")
    return "\n".join(lines)


def _read(path: Path) -> str:
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"--text: cannot read {path}: {error}") from None
    if not text:
        raise DataError(f"--text: {path} is empty.")
    return text


def _unescape(text: str) -> str:
    """`\\n` and `\\t` as a shell passes them on."""
    return text.replace("\\n", "\n").replace("\\t", "\t")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, epilog="see docs/separators.md"
    )
    parser.add_argument("--tokenizer", type=Path, required=True, help="tokenizer.json, or a tokenizer's folder")
    parser.add_argument("--separators", nargs="+", default=list(DEFAULT_SEPARATORS), metavar="STRING")
    parser.add_argument("--text", type=Path, help="a text like the one to train on; shares and ratios come from it")
    parser.add_argument("--windows", type=int, nargs="+", default=[64, 128, 256], metavar="N")
    parser.add_argument("--seq-length", type=int, default=2048)
    parser.add_argument("--init-tokens", type=int, default=3)
    parser.add_argument("--most", type=int, default=40, help="lines of the table (default: 40)")
    parser.add_argument("--json", action="store_true", help="everything, as JSON")
    return parser


if __name__ == "__main__":
    run_main(main)

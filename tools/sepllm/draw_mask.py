"""Draw which earlier tokens each token of a text sees, as a picture with the tokens on both axes.

python tools/sepllm/draw_mask.py --text "A bird sings, and the wood listens. Night falls." --out mask.png
Without --tokenizer, words and punctuation marks are the tokens.
"""

import argparse
import re
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# Runs from a plain clone, without installation.
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from megatron.errors import DataError, SettingsError
from megatron.launcher.entry import run_main
from sepllm.config import MODES, SepConfig
from tools.sepllm.get_separator_ids import DEFAULT_SEPARATORS
from tools.sepllm.vocabulary import read_vocabulary

# What a cell of the picture says, with its colour.
KINDS = {
    "not seen": "#f2f2f2",
    "near": "#4477aa",
    "separator": "#ee9944",
    "initial": "#66aa66",
}


@dataclass(frozen=True)
class Tokens:
    """The text as tokens: ids, what to write on the axes, and the ids that are separators."""

    ids: list[int]
    labels: list[str]
    separators: list[int]


def main() -> None:
    """Tokenise, ask the rule, draw."""
    flags = _parser().parse_args()
    text = flags.text if flags.text_file is None else _read(flags.text_file)
    tokens = _tokens(text, flags)
    settings = {"window": flags.window, "init_tokens": flags.init_tokens, "mode": flags.mode}
    config = SepConfig(
        separators=tokens.separators, interval=flags.interval, max_separators=flags.max_separators, **settings
    )
    kinds = cell_kinds(config, tokens.ids)
    kept = sum(kind > 0 for row in kinds for kind in row)
    title = f"{flags.mode}: {kept} of {len(kinds) * (len(kinds) + 1) // 2} pairs kept (n = {flags.window})"
    draw(kinds, tokens.labels, flags.out, title)
    print(f"{flags.out}: {title}")


def cell_kinds(config: SepConfig, ids: list[int]) -> list[list[int]]:
    """By query and key, the place in KINDS: how the rule lets this query see this key."""
    import torch

    from sepllm.attention.rule import keep_mask

    row = torch.tensor(ids)[None]
    keep = keep_mask(config, row)[0]
    position = torch.arange(len(ids))
    kinds = torch.full(keep.shape, list(KINDS).index("separator"))
    kinds[:, position < config.init_tokens] = list(KINDS).index("initial")
    kinds[position[:, None] - position < config.window_for(0)] = list(KINDS).index("near")
    found: list[list[int]] = torch.where(keep, kinds, 0).tolist()
    return found


def draw(kinds: list[list[int]], labels: list[str], out: Path, title: str) -> None:
    """One square a cell, a legend, the tokens on both axes."""
    try:
        from matplotlib.colors import ListedColormap
        from matplotlib.figure import Figure
        from matplotlib.patches import Patch
    except ImportError:
        raise SettingsError("drawing needs matplotlib: pip install matplotlib.") from None
    size = max(4.0, 0.2 * len(labels) + 1.5)
    figure = Figure(figsize=(size, size))
    axes: Any = figure.subplots()
    axes.imshow(kinds, cmap=ListedColormap(list(KINDS.values())), vmin=0, vmax=len(KINDS) - 1)
    places = range(len(labels))
    axes.set_xticks(places, labels, rotation=90, fontsize=7, family="monospace")
    axes.set_yticks(places, labels, fontsize=7, family="monospace")
    axes.xaxis.tick_top()
    axes.set_xlabel("may look at")
    axes.set_ylabel("token")
    for edge in range(1, len(labels)):
        axes.axhline(edge - 0.5, color="white", linewidth=0.6)
        axes.axvline(edge - 0.5, color="white", linewidth=0.6)
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0)
    handles = [Patch(color=colour, label=name) for name, colour in KINDS.items()]
    axes.legend(handles=handles, loc="upper right", fontsize=8, frameon=False, bbox_to_anchor=(1, 0.98))
    axes.set_title(title, fontsize=10)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(out, dpi=130, bbox_inches="tight")
    except (OSError, ValueError) as error:
        raise SettingsError(f"--out: cannot write {out}: {error}") from None


def _tokens(text: str, flags: argparse.Namespace) -> Tokens:
    if flags.tokenizer is None:
        pieces = re.findall(r"\w+|\n|[^\w\s]", text)
        known = {piece: number for number, piece in enumerate(dict.fromkeys(pieces))}
        ids, by_id = [known[piece] for piece in pieces], {number: piece for piece, number in known.items()}
    else:
        vocabulary = read_vocabulary(flags.tokenizer)
        ids, by_id = vocabulary.encode(text), vocabulary.pieces
    if not 1 <= len(ids) <= flags.most:
        raise DataError(f"the text has {len(ids)} tokens; expected 1 to {flags.most}. Shorten it, or raise --most.")
    plain = [text.replace("\\n", "\n").replace("\\t", "\t") for text in flags.separators]
    separators = flags.separator_ids or [number for number, piece in by_id.items() if piece in plain]
    if not separators and flags.mode == "sepllm":
        raise SettingsError(f"--separators: no token of this text is one of {plain}; try --mode streaming.")
    return Tokens(ids, [_label(by_id.get(number, f"<{number}>")) for number in ids], separators)


def _label(piece: str) -> str:
    """Blanks and line ends as signs; a dollar sign would start a formula."""
    return repr(piece)[1:-1].replace(" ", "\u2423").replace("$", r"\$")


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"--text-file: cannot read {path}: {error}") from None


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--text", help="the text itself")
    source.add_argument("--text-file", type=Path)
    parser.add_argument("--out", type=Path, required=True, help="picture; the ending decides: .png, .svg, .pdf")
    parser.add_argument("--tokenizer", type=Path, help="tokenizer.json, or a tokenizer's folder")
    parser.add_argument("--separators", nargs="+", default=list(DEFAULT_SEPARATORS), metavar="STRING")
    parser.add_argument("--separator-ids", type=int, nargs="+", help="instead of --separators")
    parser.add_argument("--window", type=int, default=4, help="n, the nearest tokens, itself included (default: 4)")
    parser.add_argument("--init-tokens", type=int, default=3, help="a (default: 3)")
    parser.add_argument("--max-separators", type=int, help="s (default: all)")
    parser.add_argument("--mode", choices=MODES, default="sepllm")
    parser.add_argument("--interval", type=int, help="for --mode fixed")
    parser.add_argument("--most", type=int, default=100, help="tokens a picture may have (default: 100)")
    return parser


if __name__ == "__main__":
    run_main(main)

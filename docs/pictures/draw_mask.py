"""Draws docs/pictures/mask.svg: which earlier words each word of a sentence sees, straight from the attention rule.

By hand, in the root folder: python docs/pictures/draw_mask.py
"""

import html
from pathlib import Path

import torch

from sepllm.attention.rule import keep_mask
from sepllm.config import SepConfig

SENTENCE = "A separator carries what stands before it , so later words read the comma , not the segment ."
WORDS = SENTENCE.split(" ")
SEPARATORS = (",", ".")
INITIAL, NEIGHBOURS = 2, 3
CELL, LEFT, TOP = 17, 86, 76
COLOURS = {"initial": "#d08b1d", "separator": "#2a6fbb", "neighbour": "#7fb38a", "dropped": "#eceff1"}
LEGEND = (
    ("initial", "first tokens"),
    ("separator", "separators"),
    ("neighbour", "nearest"),
    ("dropped", "not computed"),
)
CAPTION = "{kept} of {causal} causal pairs computed (a = 2, n = 3)"


def kind_of(query: int, key: int, kept: bool) -> str:
    """Why a pair is kept, in the order of the paper's sentence."""
    if not kept:
        return "dropped"
    if key < INITIAL:
        return "initial"
    return "separator" if WORDS[key] in SEPARATORS else "neighbour"


def draw() -> str:
    """The picture as SVG text."""
    words = sorted(set(WORDS))
    ids = torch.tensor([[words.index(word) for word in WORDS]])
    separators = tuple(words.index(word) for word in SEPARATORS)
    config = SepConfig(separators=separators, init_tokens=INITIAL, window=NEIGHBOURS)
    mask = keep_mask(config, ids)[0].tolist()  # [query][key]
    size = len(WORDS)
    parts = []
    for place, word in enumerate(WORDS):
        middle = (place + 0.65) * CELL
        bold = ' font-weight="bold"' if word in SEPARATORS else ""
        text = html.escape(word)
        parts.append(f'<text x="{LEFT - 6}" y="{TOP + middle:.1f}" text-anchor="end"{bold}>{text}</text>')
        turned = f'transform="translate({LEFT + middle:.1f},{TOP - 6}) rotate(-60)"'
        parts.append(f"<text {turned}{bold}>{text}</text>")
    for query in range(size):
        for key in range(query + 1):
            colour = COLOURS[kind_of(query, key, mask[query][key])]
            x, y = LEFT + key * CELL, TOP + query * CELL
            parts.append(f'<rect x="{x}" y="{y}" width="{CELL - 1}" height="{CELL - 1}" rx="2" fill="{colour}"/>')
    for line, (kind, label) in enumerate(LEGEND):
        x, y = LEFT + (size - 6) * CELL, TOP + line * (CELL + 4)
        parts.append(f'<rect x="{x}" y="{y}" width="{CELL - 1}" height="{CELL - 1}" rx="2" fill="{COLOURS[kind]}"/>')
        parts.append(f'<text x="{x + CELL + 5}" y="{y + 12}">{label}</text>')
    caption = CAPTION.format(kept=sum(map(sum, mask)), causal=size * (size + 1) // 2)
    width, height = LEFT + size * CELL + 20, TOP + size * CELL + 30
    parts.append(f'<text x="{LEFT}" y="{height - 8}">{caption}</text>')
    body = "\n".join(parts)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" '
        f'font-family="sans-serif" font-size="12" fill="#37474f">\n<rect width="100%" height="100%" fill="white"/>\n'
        f"{body}\n</svg>\n"
    )


if __name__ == "__main__":
    Path(__file__).with_name("mask.svg").write_text(draw(), encoding="utf-8")

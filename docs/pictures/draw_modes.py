"""Draws docs/pictures/modes.svg: the same sentence under each attention mode, straight from the attention rule.

By hand, in the root folder: python docs/pictures/draw_modes.py
"""

import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent))

from draw_mask import COLOURS, INITIAL, NEIGHBOURS, SEPARATORS, WORDS, kind_of

from sepllm.attention.rule import keep_mask
from sepllm.config import SepConfig

CELL, GAP, TOP, BOTTOM = 9, 26, 34, 26
INTERVAL = 4
IDS = torch.tensor([[sorted(set(WORDS)).index(word) for word in WORDS]])
MARKS = tuple(sorted(set(WORDS)).index(word) for word in SEPARATORS)
LABELS = {"initial": "first tokens", "separator": "separators (FixLLM: every 4th)", "neighbour": "nearest"}
# title, file in configs/attention, rule
PANELS = (
    ("Full attention", "full", SepConfig(separators=(), mode="full")),
    ("StreamingLLM", "streaming", SepConfig(separators=(), init_tokens=INITIAL, window=NEIGHBOURS, mode="streaming")),
    (
        "FixLLM",
        "fixllm",
        SepConfig(separators=(), init_tokens=INITIAL, window=NEIGHBOURS, interval=INTERVAL, mode="fixed"),
    ),
    ("SepLLM", "sepllm", SepConfig(separators=MARKS, init_tokens=INITIAL, window=NEIGHBOURS)),
)


def draw() -> str:
    """The picture as SVG text: a square of cells for each mode, queries downwards, keys to the right."""
    size = len(WORDS)
    parts = []
    for place, (title, file, config) in enumerate(PANELS):
        left = GAP + place * (size * CELL + GAP)
        mask = keep_mask(config, IDS)[0].tolist()  # [query][key]
        parts.append(f'<text x="{left}" y="16" font-weight="bold">{title}</text>')
        parts.append(f'<text x="{left}" y="29" font-size="10">attention/{file}…</text>')
        cells: dict[str, str] = {}
        for query in range(size):
            for key in range(query + 1):
                kind = _kind(query, key, mask[query][key], config.mode)
                square = f"M{left + key * CELL} {TOP + query * CELL}h{CELL - 1}v{CELL - 1}h{1 - CELL}z"
                cells[kind] = cells.get(kind, "") + square
        parts += [f'<path fill="{COLOURS[kind]}" d="{squares}"/>' for kind, squares in cells.items()]
        kept = f"{sum(map(sum, mask))} of {size * (size + 1) // 2} pairs"
        parts.append(f'<text x="{left}" y="{TOP + size * CELL + 14}" font-size="11">{kept}</text>')
    width, height = GAP + len(PANELS) * (size * CELL + GAP), TOP + size * CELL + BOTTOM + 18
    for place, (kind, label) in enumerate(LABELS.items()):
        x, y = GAP + place * 170, height - 14
        parts.append(f'<rect x="{x}" y="{y}" width="{CELL}" height="{CELL}" fill="{COLOURS[kind]}"/>')
        parts.append(f'<text x="{x + 14}" y="{y + 9}" font-size="11">{label}</text>')
    body = "\n".join(parts)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" '
        f'font-family="sans-serif" font-size="12" fill="#37474f">\n<rect width="100%" height="100%" fill="white"/>\n'
        f"{body}\n</svg>\n"
    )


def _kind(query: int, key: int, kept: bool, mode: str) -> str:
    if mode == "full":
        return "neighbour"
    if kept and key >= INITIAL:
        return "neighbour" if query - key < NEIGHBOURS else "separator"
    return kind_of(query, key, kept)


if __name__ == "__main__":
    Path(__file__).with_name("modes.svg").write_text(draw(), encoding="utf-8")

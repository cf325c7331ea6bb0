"""A folder of plain texts becomes two JSONL files: to train on, and held out. Whole texts are held out, not parts.

Lines broken by a printer are joined again (a single newline becomes a blank), so that a newline separates paragraphs.
By hand: python -m training_examples.paper_ordering.corpus --texts FOLDER --output FOLDER
"""

import argparse
import json
import re
from collections.abc import Sequence
from pathlib import Path

HELD_OUT_EVERY = 3
HELD_OUT_SHARE = 0.25
_BROKEN_LINE = re.compile(r"(?<!\n)\n(?!\n)")


def joined_lines(text: str) -> str:
    """The text with each single newline turned into a blank; empty lines stay."""
    return _BROKEN_LINE.sub(" ", text)


def split(files: Sequence[Path]) -> tuple[list[Path], list[Path]]:
    """(to train on, held out): in the order of names every third file is held out, until a quarter of the bytes is."""
    ordered = sorted(files, key=lambda file: file.name)
    wanted = HELD_OUT_SHARE * sum(file.stat().st_size for file in files)
    held_out: list[Path] = []
    for file in ordered[::HELD_OUT_EVERY]:
        if sum(one.stat().st_size for one in held_out) < wanted:
            held_out.append(file)
    return [file for file in ordered if file not in held_out], held_out


def write_jsonl(files: Sequence[Path], output: Path) -> int:
    """One line {"text": ..., "source": file name} per file; returns the number of characters."""
    characters = 0
    with output.open("w", encoding="utf-8") as lines:
        for file in files:
            text = joined_lines(file.read_text("utf-8"))
            characters += len(text)
            lines.write(json.dumps({"text": text, "source": file.name}) + "\n")
    return characters


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--texts", type=Path, required=True, help="folder of .txt files, one text or book each")
    parser.add_argument("--output", type=Path, required=True, help="gets train.jsonl and heldout.jsonl")
    arguments = parser.parse_args()
    files = list(arguments.texts.glob("*.txt"))
    if len(files) < HELD_OUT_EVERY:
        parser.error(f"{arguments.texts} holds {len(files)} .txt files; at least {HELD_OUT_EVERY} are needed to split")
    arguments.output.mkdir(parents=True, exist_ok=True)
    for name, part in zip(("train", "heldout"), split(files), strict=True):
        characters = write_jsonl(part, arguments.output / f"{name}.jsonl")
        print(f"{name}: {len(part)} texts, {characters:,} characters -> {arguments.output / f'{name}.jsonl'}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())

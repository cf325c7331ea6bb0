"""English text that every Python carries, as JSONL: the `pydoc` topics and the standard library's docstrings.

Modules are parsed as text, never imported. Prose paragraphs are kept, each once; one document in twenty is held out.
By hand: python -m training_examples.quickstart.corpus
"""

import argparse
import ast
import hashlib
import json
import re
import sys
import sysconfig
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

OTHER_PEOPLES = {
    "site-packages",
    "dist-packages",
    "__pycache__",
    "test",
    "tests",
    "idle_test",
    "_vendor",
    "lib-dynload",
}
COMMON_WORDS = re.compile(r"\b(the|an?|of|to|is|are|be|in|and|or|for|if|it|this|that|with|as|by|on|not|from|return)\b")
DOCUMENT_CHARACTERS = 3000  # documents are closed at the first paragraph that passes this
SHORTEST_DOCUMENT = 200
HELD_OUT_ONE_IN = 20
SMALLEST_CORPUS = 1_000_000


@dataclass(frozen=True)
class Document:
    """A few paragraphs of one source, in their order there."""

    source: str
    text: str


def documents() -> Iterator[Document]:
    """All documents of this Python, every paragraph once, in an order that depends on the installation only."""
    seen: set[bytes] = set()
    for source, texts in [*_topics(), *_docstrings(Path(sysconfig.get_path("stdlib")))]:
        paragraphs = (paragraph for text in texts for paragraph in prose_paragraphs(text))
        yield from _join(source, _first_time(paragraphs, seen))


def prose_paragraphs(text: str) -> Iterator[str]:
    """The English paragraphs of a text, their lines joined; code, grammar, tables and rulers are left out."""
    for block in re.split(r"\n\s*\n", text):
        lines = [line.strip() for line in block.splitlines()]
        paragraph = re.sub(r" ?\n ?(?![-*+•] |\d+\. )", " ", "\n".join(lines)).strip()
        paragraph = re.sub(r"[ \t]+", " ", paragraph)
        if _is_english(paragraph):
            yield paragraph


def is_held_out(text: str) -> bool:
    """One document in twenty, chosen by its content, so that the choice never depends on order."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big") % HELD_OUT_ONE_IN == 0


def write_corpus(output: Path) -> dict[str, int]:
    """Write train.jsonl and heldout.jsonl ({"text", "source"} a line); returns counts of documents and characters."""
    output.mkdir(parents=True, exist_ok=True)
    counts = dict.fromkeys(("train_documents", "train_characters", "heldout_documents", "heldout_characters"), 0)
    parts = {name: output / f"{name}.jsonl" for name in ("train", "heldout")}
    drafts = {name: path.with_suffix(".part") for name, path in parts.items()}
    with drafts["train"].open("w", encoding="utf-8") as train, drafts["heldout"].open("w", encoding="utf-8") as heldout:
        for document in documents():
            name, file = ("heldout", heldout) if is_held_out(document.text) else ("train", train)
            file.write(json.dumps({"text": document.text, "source": document.source}) + "\n")
            counts[f"{name}_documents"] += 1
            counts[f"{name}_characters"] += len(document.text)
    for name, path in parts.items():
        drafts[name].replace(path)
    return counts


def _topics() -> Iterator[tuple[str, list[str]]]:
    from pydoc_data.topics import topics

    for name in sorted(topics):
        yield f"pydoc topic {name}", [topics[name]]


def _docstrings(standard_library: Path) -> Iterator[tuple[str, list[str]]]:
    for path in sorted(standard_library.rglob("*.py")):
        relative = path.relative_to(standard_library)
        if OTHER_PEOPLES.isdisjoint(relative.parts):
            yield relative.as_posix(), _docstrings_of(path)


def _docstrings_of(path: Path) -> list[str]:
    try:
        tree = ast.parse(path.read_text(encoding="utf-8"))
    except (SyntaxError, UnicodeDecodeError):  # templates and samples in other encodings
        return []
    kinds = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    nodes = sorted((node for node in ast.walk(tree) if isinstance(node, kinds)), key=lambda n: getattr(n, "lineno", 0))
    return [text for node in nodes if (text := ast.get_docstring(node))]


def _is_english(paragraph: str) -> bool:
    if len(paragraph) < 40 or ">>>" in paragraph or "::=" in paragraph or not paragraph.isascii():
        return False
    words = len(re.findall(r"[a-z]+", paragraph.lower()))
    letters = sum(character.isalpha() or character in " \n" for character in paragraph)
    common = len(COMMON_WORDS.findall(paragraph.lower()))
    return letters > 0.8 * len(paragraph) and common >= 2 and common > 0.12 * words


def _first_time(paragraphs: Iterable[str], seen: set[bytes]) -> Iterator[str]:
    for paragraph in paragraphs:
        words = " ".join(re.findall(r"[a-z0-9]+", paragraph.lower()))
        key = hashlib.sha256(words.encode()).digest()[:12]
        if key not in seen:
            seen.add(key)
            yield paragraph


def _join(source: str, paragraphs: Iterable[str]) -> Iterator[Document]:
    waiting: list[str] = []
    for paragraph in paragraphs:
        waiting.append(paragraph)
        if sum(map(len, waiting)) > DOCUMENT_CHARACTERS:
            yield Document(source, "\n\n".join(waiting))
            waiting = []
    if sum(map(len, waiting)) >= SHORTEST_DOCUMENT:
        yield Document(source, "\n\n".join(waiting))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("quickstart/corpus"), help="folder for the two JSONL files")
    output = parser.parse_args().output
    start = time.monotonic()
    counts = write_corpus(output)
    total = counts["train_characters"] + counts["heldout_characters"]
    print(
        f"{counts['train_documents']} documents to train on ({counts['train_characters']:,} characters), "
        f"{counts['heldout_documents']} held out ({counts['heldout_characters']:,}) "
        f"from Python {sys.version.split()[0]} in {time.monotonic() - start:.1f} s -> {output}"
    )
    if total < SMALLEST_CORPUS:
        print(
            f"This Python carries only {total:,} characters of English (expected {SMALLEST_CORPUS:,}): its standard "
            f"library at {sysconfig.get_path('stdlib')} seems to be stripped. Use a full Python installation.",
            file=sys.stderr,
        )
        return 3
    return 0


if __name__ == "__main__":
    raise SystemExit(main())

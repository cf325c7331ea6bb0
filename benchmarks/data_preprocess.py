"""Part (a) of `data.py`: JSONL to token files, beside the plain loops over `tokenizers` that are usual."""

import json
import random
import sys
from array import array
from pathlib import Path
from typing import Any

from benchmarks.commands import Runs, measure, sha256_of

_WORDS = (
    "the",
    "of",
    "and",
    "to",
    "in",
    "that",
    "he",
    "was",
    "it",
    "his",
    "with",
    "as",
    "for",
    "had",
    "you",
    "not",
    "be",
)
CASES = ("tool", "tool, no fast encoder", "loop of encode_batch", "loop of encode_batch_fast")


def measure_preprocessing(
    folder: Path, text: Path | None, tokenizer: Path, megabytes: float, threads: int, repeats: int
) -> dict[str, Any]:
    """Seconds of each case over the same JSONL; the four `.bin` files must be equal. Memory also at a tenth of it."""
    corpus, tenth = folder / "corpus.jsonl", folder / "tenth.jsonl"
    for path, size in ((corpus, megabytes), (tenth, megabytes / 10)):
        write_corpus(path, text, int(size * 1e6))
    commands = {
        name: _command(name, corpus, folder / f"out{number}", tokenizer, threads) for number, name in enumerate(CASES)
    }
    runs = measure(commands, repeats, environment={"RAYON_NUM_THREADS": str(threads), "TOKENIZERS_PARALLELISM": "true"})
    hashes = {
        name: sha256_of(Path(f"{folder / f'out{number}'}_text_document.bin")) for number, name in enumerate(CASES)
    }
    if len(set(hashes.values())) != 1:
        raise SystemExit(f"the token files differ, so nothing was measured: {hashes}")
    small = measure({"tool": _command("tool", tenth, folder / "small", tokenizer, threads)}, 1)["tool"]
    return _report(runs, small, corpus.stat().st_size / 1e6)


def write_corpus(path: Path, text: Path | None, size: int) -> None:
    """JSONL of `size` bytes of text: documents of about 5 kB cut from the books of a folder, or from frequent words."""
    draw = random.Random(3)
    books = [book.read_text(encoding="utf-8") for book in sorted(text.glob("*.txt"))] if text else []
    books = books or [" ".join(draw.choices(_WORDS, k=20_000)) for _ in range(10)]
    with path.open("w", encoding="utf-8") as file:
        while size > 0:
            book = draw.choice(books)
            length = int(min(200_000, max(50, draw.lognormvariate(8, 1))))
            start = draw.randrange(max(1, len(book) - length))
            document = book[start : start + length]
            file.write(json.dumps({"text": document}) + "\n")
            size -= len(document.encode())


def _command(name: str, corpus: Path, prefix: Path, tokenizer: Path, threads: int) -> list[str]:
    if name.startswith("loop"):
        kind = name.rsplit(" ", 1)[1]
        return [sys.executable, "-m", "benchmarks.data_preprocess", kind, str(corpus), str(prefix), str(tokenizer)]
    command = [
        sys.executable,
        "tools/datasets/preprocess_data.py",
        "--input",
        str(corpus),
        "--output-prefix",
        str(prefix),
    ]
    command += ["--tokenizer-type", "HFTokenizer", "--vocab-file", str(tokenizer), "--append-eod"]
    command += ["--workers", str(threads), "--log-interval", "100000000"]
    return command + (["--no-fast-encoder"] if name != "tool" else [])


def _report(runs: dict[str, Runs], small: Runs, megabytes: float) -> dict[str, Any]:
    cases = {name: found.summary() for name, found in runs.items()}
    for found in cases.values():
        found["mb_per_second"] = round(megabytes / found["seconds"], 1)
    seconds = {name: found["seconds"] for name, found in cases.items()}
    return {
        "megabytes": round(megabytes, 1),
        "cases": cases,
        "encoder": runs["tool"].outputs[-1].splitlines()[0],
        "tool_peak_mib_at_a_tenth_of_the_input": small.summary()["peak_mib"],
        "goals": {
            "tool over loop of encode_batch, >= 10 with the fast encoder": round(
                seconds["loop of encode_batch"] / seconds["tool"], 2
            ),
            "tool without it over loop of encode_batch_fast, >= 0.95": round(
                seconds["loop of encode_batch_fast"] / seconds["tool, no fast encoder"], 2
            ),
        },
    }


def _loop(kind: str, corpus: str, prefix: str, tokenizer: str) -> None:
    """What many write by hand: parse, encode 500 texts at a time on all threads, write. Empty texts are left out."""
    import tokenizers

    backend = tokenizers.Tokenizer.from_file(tokenizer)
    end = backend.token_to_id("<|endoftext|>")
    encode = getattr(backend, kind)
    with open(corpus, encoding="utf-8") as file, open(f"{prefix}_text_document.bin", "wb") as out:
        texts: list[str] = []

        def flush() -> None:
            for encoding in encode(texts):
                out.write(array("H", [*encoding.ids, end]).tobytes())
            texts.clear()

        for line in file:
            texts.append(json.loads(line)["text"])
            if len(texts) == 500:
                flush()
        flush()


if __name__ == "__main__":
    _loop(*sys.argv[1:])

"""A byte-level BPE tokenizer in which every separator is a token of its own, and stays alone in running text.

SepLLM lets separators carry the segment before them, so ".", "," or a newline must never hide inside ").\\n" or "...".
By hand: python -m training_examples.quickstart.train_tokenizer
"""

import argparse
import json
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

SEPARATORS = ".,?!;: \t\n"
END_OF_TEXT = "<|endoftext|>"


def train_tokenizer(texts: Iterable[str], vocab_size: int) -> Tokenizer:
    """Byte-level BPE; the separators are cut out before words are formed, so no merge can swallow one.

    A blank in front of a word belongs to the word, as in GPT-2; it is a token of its own only where it stands alone.
    """
    tokenizer = Tokenizer(models.BPE())
    alone = Regex(r"[.,?!;:\t\n]")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(alone, behavior="isolated"), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[END_OF_TEXT],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def read_texts(path: Path) -> Iterator[str]:
    """The text of every line of a JSONL file."""
    with path.open(encoding="utf-8") as file:
        for line in file:
            yield json.loads(line)["text"]


@dataclass(frozen=True)
class SeparatorShare:
    """How separators come out of the tokenizer; `alone` and `characters` leave blanks aside (they join their word)."""

    tokens: int
    separators: int
    alone: int
    characters: int


def separator_share(tokenizer: Tokenizer, texts: Iterable[str]) -> SeparatorShare:
    """Counts all tokens, separator tokens, and of the separator characters other than blanks those that stand alone."""
    ids = {separator: single_id(tokenizer, separator) for separator in SEPARATORS}
    tokens = separators = alone = characters = 0
    for text in texts:
        counts = Counter(tokenizer.encode(text).ids)
        tokens += sum(counts.values())
        separators += sum(counts[number] for number in ids.values())
        alone += sum(counts[number] for separator, number in ids.items() if separator != " ")
        characters += sum(text.count(separator) for separator in SEPARATORS if separator != " ")
    return SeparatorShare(tokens, separators, alone, characters)


def single_id(tokenizer: Tokenizer, text: str) -> int:
    """The one id of a text; an error when it takes several."""
    ids = tokenizer.encode(text).ids
    if len(ids) != 1:
        raise ValueError(f"{text!r} takes {len(ids)} tokens, {ids}; a separator must be one")
    return ids[0]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--input", type=Path, default=Path("quickstart/corpus/train.jsonl"))
    parser.add_argument("--output", type=Path, default=Path("quickstart/tokenizer.json"))
    parser.add_argument("--vocab-size", type=int, default=4096)
    arguments = parser.parse_args()
    start = time.monotonic()
    tokenizer = train_tokenizer(read_texts(arguments.input), arguments.vocab_size)
    share = separator_share(tokenizer, read_texts(arguments.input))
    draft = arguments.output.with_suffix(".part")
    tokenizer.save(str(draft))
    draft.replace(arguments.output)
    shown = " ".join(f"{separator!r}={single_id(tokenizer, separator)}" for separator in SEPARATORS)
    print(
        f"{tokenizer.get_vocab_size()} tokens in {time.monotonic() - start:.1f} s; separators {shown}\n"
        f"{share.tokens:,} tokens in the corpus, {share.separators:,} of them separators "
        f"({100 * share.separators / share.tokens:.1f} %); {share.alone:,} of the {share.characters:,} points, commas, "
        f"... and newlines of the text are such tokens -> {arguments.output}"
    )
    return 0


if __name__ == "__main__":
    raise SystemExit(main())

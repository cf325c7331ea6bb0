"""Token ids to measure on: real text through a tokenizer, or separators strewn at random at a stated rate."""

import re
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

# Separators of the published Pythia models: . , ? ! ; : blank tab newline.
PYTHIA_SEPARATORS = (15, 13, 32, 2, 28, 27, 209, 186, 187)
_SEED = 1
_MOST_CHARACTERS_PER_TOKEN = 8


@dataclass(frozen=True)
class Text:
    """ids: int64 [tokens]; separators: the ids that count as such; source: for the result file."""

    ids: Tensor
    separators: tuple[int, ...]
    source: str

    def row(self, seq: int) -> Tensor:
        """int64 [1, seq]: the first seq tokens."""
        return self.ids[None, :seq]

    def share(self, seq: int) -> float:
        """Share of separators among the first seq tokens."""
        return torch.isin(self.ids[:seq], torch.tensor(self.separators)).double().mean().item()


def read_text(folder: Path, tokenizer: Path, separators: tuple[int, ...], tokens: int) -> Text:
    """Of `read_texts` the one with the median share of separators."""
    texts = read_texts(folder, tokenizer, separators, tokens)
    return texts[len(texts) // 2]


def read_texts(
    folder: Path, tokenizer: Path, separators: tuple[int, ...], tokens: int, most: int | None = None
) -> list[Text]:
    """The beginnings of all .txt files that are long enough, hard-wrapped lines joined, by their share of separators.

    most: only the first so many of them. Raises SystemExit when no file of the folder is long enough.
    """
    from tokenizers import Tokenizer

    model = Tokenizer.from_file(str(tokenizer))
    found = []
    for path in sorted(folder.glob("*.txt")):
        with path.open(encoding="utf-8") as file:
            joined = re.sub(r"(?<!\n)\n(?!\n)", " ", file.read(_MOST_CHARACTERS_PER_TOKEN * tokens))
        ids = model.encode(joined, add_special_tokens=False).ids[:tokens]
        if len(ids) == tokens:
            text = Text(torch.tensor(ids), separators, f"{path.name}, lines joined, {tokenizer.name}")
            found.append((text.share(tokens), path.name, text))
        if len(found) == most:
            break
    if not found:
        raise SystemExit(f"{folder} has no .txt file of {tokens} tokens.")
    return [text for _, _, text in sorted(found, key=lambda entry: entry[:2])]


def random_text(tokens: int, rate: float) -> Text:
    """Each token is a separator with probability `rate`, independently of the others."""
    chance = torch.rand(tokens, generator=torch.Generator().manual_seed(_SEED))
    return Text((chance < rate).long(), (1,), f"random separators, rate {rate}")

"""Token ids to measure on: real text through a tokenizer, or separators strewn at random at a stated rate."""

import re
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

# Separators of the published Pythia models: . , ? ! ; : blank tab newline.
PYTHIA_SEPARATORS = (15, 13, 32, 2, 28, 27, 209, 186, 187)
_SEED = 1


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
    """The .txt files of a folder in order of their names, hard-wrapped lines joined, until there are enough tokens."""
    from tokenizers import Tokenizer

    model, ids, names = Tokenizer.from_file(str(tokenizer)), [], []
    for path in sorted(folder.glob("*.txt")):
        joined = re.sub(r"(?<!\n)\n(?!\n)", " ", path.read_text(encoding="utf-8"))
        ids += model.encode(joined, add_special_tokens=False).ids
        names.append(path.name)
        if len(ids) >= tokens:
            return Text(
                torch.tensor(ids[:tokens]), separators, f"{tokenizer.name} over {', '.join(names)}, lines joined"
            )
    raise SystemExit(f"{folder} holds {len(ids)} tokens in {len(names)} .txt files; {tokens} are needed.")


def random_text(tokens: int, rate: float) -> Text:
    """Each token is a separator with probability `rate`, independently of the others."""
    chance = torch.rand(tokens, generator=torch.Generator().manual_seed(_SEED))
    return Text((chance < rate).long(), (1,), f"random separators, rate {rate}")

"""One next token out of logits: temperature, top-k, top-p, or the largest. GPT-NeoX's meaning of its keys."""

from dataclasses import dataclass

import torch
from torch import Tensor

from megatron.errors import SettingsError


@dataclass(frozen=True)
class Sampling:
    """temperature 0 leaves logits as they are; top_k 0 and top_p 0 are off; all three 0 is greedy."""

    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 0.0

    def __post_init__(self) -> None:
        if self.temperature < 0 or self.top_k < 0 or not 0 <= self.top_p <= 1:
            raise SettingsError(
                f"temperature {self.temperature}, top_k {self.top_k}, top_p {self.top_p}: expected "
                "temperature >= 0, top_k >= 0, top_p between 0 and 1. All three 0 is greedy."
            )

    @property
    def greedy(self) -> bool:
        return self.temperature == 0 and self.top_k == 0 and self.top_p == 0


def next_token(logits: Tensor, sampling: Sampling, generator: torch.Generator | None = None) -> int:
    """Choose a token id. logits: [vocab], any float type; generator: on the CPU, so that a seed means one text."""
    logits = logits.float().cpu()
    if sampling.greedy:
        return int(logits.argmax())
    probabilities = sampling_probabilities(logits, sampling)
    return int(torch.multinomial(probabilities, 1, generator=generator))


def sampling_probabilities(logits: Tensor, sampling: Sampling) -> Tensor:
    """Probabilities [vocab] after temperature, then top-k, then top-p (the smallest set reaching that mass)."""
    if sampling.temperature > 0:
        logits = logits / sampling.temperature
    if 0 < sampling.top_k < logits.numel():
        least = logits.topk(sampling.top_k).values[-1]
        logits = logits.masked_fill(logits < least, float("-inf"))
    if 0 < sampling.top_p < 1:
        ordered, index = logits.softmax(-1).sort(descending=True)
        before = ordered.cumsum(-1) - ordered
        logits = logits.index_fill(0, index[before >= sampling.top_p], float("-inf"))
    return logits.softmax(-1)

"""Is the written folder the same model? Stock transformers loads it by itself and must agree with our own forward."""

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from megatron.inference.generation import continue_tokens
from megatron.inference.sampling import Sampling
from megatron.model.gpt_model import GPTModel
from megatron.tokenizer.tokenizer import Tokenizer

TOLERANCE = 1e-4
_LONGEST = 2048  # logits of longer texts cost more than they prove
_NEW_TOKENS = 24


@dataclass(frozen=True)
class Verification:
    """lengths: tokens of the texts compared. max_logit_difference: fp32, over all of them. greedy: per prompt,
    new tokens compared and whether they are equal (or differ by a tie within the tolerance)."""

    lengths: tuple[int, ...]
    max_logit_difference: float
    greedy_tokens_compared: int
    greedy_tokens_equal: bool
    tokenizer_equal: bool
    weights_precision: str

    @property
    def passed(self) -> bool:
        return self.max_logit_difference < TOLERANCE and self.greedy_tokens_equal and self.tokenizer_equal

    def as_dict(self) -> dict[str, Any]:
        return asdict(self) | {"tolerance": TOLERANCE, "passed": self.passed}


@torch.inference_mode()
def verify_folder(folder: Path, model: GPTModel, tokenizer: Tokenizer, precision: str) -> Verification:
    """Compare the folder with `model` (fp32, its weights rounded to the exported precision) on real text.

    Covers one token, less than the window, and lengths that go beyond the largest window if positions allow.
    """
    exported = _load(folder)
    text = sample_text()
    ids = tokenizer.tokenize(text)
    lengths = text_lengths(model, len(ids))
    difference = 0.0
    for length in lengths:
        batch = torch.tensor([ids[:length], ids[-length:]])
        difference = max(difference, float((exported(batch).logits - model(batch)).abs().max()))
    compared, equal = 0, True
    for length in lengths[:-1] or lengths:
        count, same = _compare_greedy(exported, model, tokenizer, ids[:length])
        compared, equal = compared + count, equal and same
    return Verification(
        lengths=tuple(lengths),
        max_logit_difference=difference,
        greedy_tokens_compared=compared,
        greedy_tokens_equal=equal,
        tokenizer_equal=_same_ids(folder, tokenizer, text),
        weights_precision=precision,
    )


def text_lengths(model: GPTModel, available: int) -> list[int]:
    """Tokens per text: 1, 7, a bit beyond each distinct window, half of the positions, all of them."""
    config = model.config
    longest = min(config.max_position_embeddings, available, _LONGEST)
    windows = {config.attention.window_for(layer) for layer in range(config.num_layers)}
    beyond = [length for window in windows for length in (window + 9, 2 * window + 33)]
    return sorted({min(length, longest) for length in [1, 7, longest // 2, longest, *beyond]})


def sample_text() -> str:
    """English that every Python carries: its reference manual."""
    from pydoc_data.topics import topics

    return "\n\n".join(topics[name] for name in ("lambda", "exceptions", "compound", "specialnames"))


def _load(folder: Path) -> Any:
    from transformers import AutoModelForCausalLM

    with _quiet_transformers():
        model = AutoModelForCausalLM.from_pretrained(
            folder, trust_remote_code=True, local_files_only=True, dtype=torch.float32
        )
    return model.eval()


def _compare_greedy(exported: Any, model: GPTModel, tokenizer: Tokenizer, prompt: Sequence[int]) -> tuple[int, bool]:
    """(new tokens compared, equal?) of the exported model's generate() and our cached decoding."""
    positions = model.config.max_position_embeddings
    count = min(_NEW_TOKENS, positions - len(prompt))
    if count <= 0:
        return 0, True
    ours = continue_tokens(
        model,
        prompt,
        maximum_tokens=count,
        max_positions=positions,
        vocab_size=tokenizer.vocab_size,
        sampling=Sampling(),
        stop_tokens={tokenizer.eod},
    )
    generated = exported.generate(
        torch.tensor([list(prompt)]), max_new_tokens=count, do_sample=False, attention_mask=torch.ones(1, len(prompt))
    )[0, len(prompt) :].tolist()
    expected = [*ours.tokens, *([tokenizer.eod] if ours.finished else [])]
    for place, (left, right) in enumerate(zip(expected, generated, strict=False)):
        if left != right:
            logits = model(torch.tensor([[*prompt, *expected[:place]]]))[0, -1]
            return place, _tie(logits, left, right)
    return len(expected), len(expected) == len(generated)


def _tie(logits: Tensor, left: int, right: int) -> bool:
    """Two tokens so close that the tolerance of the logits decides between them."""
    return float((logits[left] - logits[right]).abs()) < TOLERANCE


def _same_ids(folder: Path, tokenizer: Tokenizer, text: str) -> bool:
    from transformers import AutoTokenizer

    with _quiet_transformers():
        exported = AutoTokenizer.from_pretrained(folder, trust_remote_code=True, local_files_only=True)
        ids = exported(text)["input_ids"]
    return ids == tokenizer.tokenize(text) and exported.eos_token_id == tokenizer.eod


@contextlib.contextmanager
def _quiet_transformers() -> Iterator[None]:
    """No progress bars, no advice: what matters is compared afterwards."""
    from transformers.utils import logging

    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        logging.enable_progress_bar()

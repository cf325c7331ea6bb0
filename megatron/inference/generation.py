"""Continue token ids with a model: cached or recomputed, until a stop token, a count, or the last position."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from megatron.inference.sampling import Sampling, next_token
from megatron.model.gpt_model import GPTModel
from megatron.model.kv_cache import KVCache
from sepllm.config import SepConfig


@dataclass
class Continuation:
    """tokens: the new ids, without the stop token; finished: a stop token was met; logits: [len(tokens), vocab]."""

    tokens: list[int] = field(default_factory=list)
    finished: bool = False
    logits: Tensor | None = None


@torch.inference_mode()
def continue_tokens(
    model: GPTModel,
    prompt: Sequence[int],
    *,
    maximum_tokens: int,
    max_positions: int,
    vocab_size: int,
    sampling: Sampling,
    stop_tokens: Collection[int] = (),
    generator: torch.Generator | None = None,
    recompute: bool = False,
    return_logits: bool = False,
    decode_attention: SepConfig | None = None,
) -> Continuation:
    """Continue one prompt (at least one id, fewer than max_positions).

    vocab_size: of the tokenizer; the padding rows of the vocabulary above it are never chosen.
    recompute: run the whole text anew for each token instead of keeping keys and values. Same tokens, slower.
    decode_attention: what cached steps after the prompt keep, where that differs from the model's own rule.
    """
    assert 0 < len(prompt) < max_positions, f"prompt of {len(prompt)} tokens for {max_positions} positions"
    device = next(model.parameters()).device
    cache = None if recompute else KVCache()
    text = list(prompt)
    feed = text
    result = Continuation()
    rows = []
    while len(result.tokens) < maximum_tokens and len(text) < max_positions:
        ids = torch.tensor([text if recompute else feed], dtype=torch.int64, device=device)
        rule = decode_attention if result.tokens and not recompute else None
        logits = _forward(model, ids, cache, rule)[0, -1, :vocab_size]
        token = next_token(logits, sampling, generator)
        if token in stop_tokens:
            result.finished = True
            break
        result.tokens.append(token)
        text.append(token)
        feed = [token]
        if return_logits:
            rows.append(logits.float().cpu())
    if rows:
        result.logits = torch.stack(rows)
    return result


def _forward(model: GPTModel, ids: Tensor, cache: KVCache | None, attention: SepConfig | None) -> Tensor:
    """Logits under another attention rule than the model's own, if one is given."""
    if attention is None:
        return model(ids, cache=cache)
    own = model.config
    model.config = replace(own, attention=attention)
    try:
        return model(ids, cache=cache)
    finally:
        model.config = own

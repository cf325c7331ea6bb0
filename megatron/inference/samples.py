"""One prompt in, one record out: {context, text, length, finished, message, duration_seconds}, as GPT-NeoX writes."""

import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch

from megatron.inference.generation import continue_tokens
from megatron.inference.load import Loaded, decode_windows
from megatron.inference.sampling import Sampling
from megatron.model.gpt_model import GPTModel
from megatron.neox_arguments.arguments import NeoXArgs
from megatron.tokenizer.tokenizer import Tokenizer
from sepllm.config import SepConfig

NOT_STARTED = "the context has {found} tokens and the model {positions} positions: shorten the context"


@dataclass
class Sampler:
    """A model with its tokenizer and the generation keys of the settings."""

    model: GPTModel
    tokenizer: Tokenizer
    sampling: Sampling
    max_positions: int
    maximum_tokens: int
    recompute: bool
    return_logits: bool
    generator: torch.Generator
    decode_attention: SepConfig | None

    def sample(self, context: str) -> dict[str, Any]:
        """Continue `context` (empty: start from the end-of-document token).

        The record's `length` counts new tokens, `finished` says that the model ended the text itself, and
        `message` is None unless nothing could be generated. `logits` is added when return_logits is set.
        """
        start = time.monotonic()
        prompt = self.tokenizer.tokenize(context) if context else [self.tokenizer.eod]
        record: dict[str, Any] = {"context": context, "text": "", "length": 0, "finished": False, "message": None}
        if len(prompt) >= self.max_positions:
            record["message"] = NOT_STARTED.format(found=len(prompt), positions=self.max_positions)
        else:
            found = continue_tokens(
                self.model,
                prompt,
                maximum_tokens=self.maximum_tokens,
                max_positions=self.max_positions,
                vocab_size=self.tokenizer.vocab_size,
                sampling=self.sampling,
                stop_tokens={self.tokenizer.eod},
                generator=self.generator,
                recompute=self.recompute,
                return_logits=self.return_logits,
                decode_attention=self.decode_attention,
            )
            record |= {
                "text": self.tokenizer.detokenize(found.tokens),
                "length": len(found.tokens),
                "finished": found.finished,
            }
            if self.return_logits:
                record["logits"] = [] if found.logits is None else found.logits.tolist()
        return record | {"duration_seconds": round(time.monotonic() - start, 6)}

    def unconditional(self, count: int) -> Iterator[dict[str, Any]]:
        """`count` texts from nothing."""
        for _ in range(count):
            yield self.sample("")


def sampler_from_args(args: NeoXArgs, loaded: Loaded) -> Sampler:
    """The generation keys of the settings; generate_local_window_size rules the cached steps after the prompt."""
    windows = decode_windows(args)
    return Sampler(
        model=loaded.model,
        tokenizer=loaded.tokenizer,
        sampling=Sampling(args.temperature, args.top_k, args.top_p),
        max_positions=args.max_position_embeddings,
        maximum_tokens=args.maximum_tokens,
        recompute=args.recompute,
        return_logits=args.return_logits,
        generator=torch.Generator().manual_seed(args.seed),
        decode_attention=None if windows is None else replace(loaded.model.config.attention, window=windows),
    )

"""The caches that benchmarks/decode.py compares, filled with random keys as after a long prompt, and their steps."""

import importlib.metadata
import time
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from transformers import AttentionInterface, AutoModelForCausalLM, DynamicCache, LlamaConfig

from benchmarks.texts import PYTHIA_SEPARATORS
from sepllm.cache.sep_cache import SepCache
from sepllm.config import SepConfig

NO_ATTENTION = "no_attention"
INIT, WINDOW, LIMIT = 4, 256, 128
BUDGET = INIT + WINDOW + LIMIT


def make_model(layers: int, hidden: int, heads: int, vocab: int = 32000) -> Any:
    """A Llama with random weights, float32."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=vocab,
        hidden_size=hidden,
        intermediate_size=hidden * 11 // 4,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        max_position_embeddings=2**17,
        bos_token_id=None,
        eos_token_id=None,
    )
    return AutoModelForCausalLM.from_config(config, attn_implementation="sdpa").eval()


def random_ids(batch: int, length: int, rate: float, vocab: int, seed: int = 0) -> Tensor:
    """Separators at this rate, int64 [batch, length]."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(300, vocab, (batch, length), generator=generator)
    return torch.where(torch.rand(batch, length, generator=generator) < rate, PYTHIA_SEPARATORS[0], ids)


def rule(limit: int | None) -> SepConfig:
    return SepConfig(separators=PYTHIA_SEPARATORS, init_tokens=INIT, window=WINDOW, max_separators=limit)


@dataclass
class Case:
    """One cache and its next token. book_keeping: seconds of each step that a SepCache spends on deciding."""

    model: Any
    cache: Any
    ids: Tensor
    at: int
    book_keeping: list[float] = field(default_factory=list)

    @torch.no_grad()
    def step(self) -> None:
        """Generate one token; its content is given, so that all caches see the same text."""
        token = self.ids[:, self.at : self.at + 1]
        self.at += 1
        self.model(token, past_key_values=self.cache, use_cache=True)

    @property
    def bytes(self) -> int:
        return sum(tensor.nbytes for layer in self.cache.layers for tensor in (layer.keys, layer.values))


def dynamic(model: Any, ids: Tensor, context: int) -> Case:
    """Everything is kept: transformers' DynamicCache."""
    cache = DynamicCache(config=model.config)
    for layer in range(model.config.num_hidden_layers):
        cache.update(*_states(model, ids.shape[0], context, layer), layer)
    return Case(model, cache, ids, context)


def sep_cache(limit: int | None) -> Callable[[Any, Tensor, int], Case]:
    def make(model: Any, ids: Tensor, context: int) -> Case:
        cache = SepCache.for_model(model, rule(limit))
        case = Case(model, cache, ids, context)
        cache.begin(ids[:, :context], None)
        for layer in range(model.config.num_hidden_layers):
            cache.update(*_states(model, ids.shape[0], context, layer), layer)
        begin = cache.begin

        def timed(*args: Any) -> Any:
            start = time.perf_counter()
            step = begin(*args)
            case.book_keeping.append(time.perf_counter() - start)
            return step

        cache.begin = timed  # type: ignore[method-assign]
        return case

    return make


def kvpress_decoding(model: Any, ids: Tensor, context: int) -> Case:
    """kvpress's press for generation, over its StreamingLLM press, at the budget of SepCache with s=128."""
    from kvpress import DecodingPress, StreamingLLMPress

    own = deepcopy(model)  # its hooks would compress the other caches too
    press = DecodingPress(StreamingLLMPress(n_sink=INIT), compression_interval=64, target_size=BUDGET)
    press(own).__enter__()
    case = dynamic(own, ids, min(context, BUDGET))
    case.at = context
    return case


def kvpress_missing() -> str | None:
    """Why kvpress cannot be measured here, or None."""
    try:
        installed = importlib.metadata.version("kvpress")
    except importlib.metadata.PackageNotFoundError:
        return "kvpress is not installed"
    transformers = importlib.metadata.version("transformers")
    if tuple(int(part) for part in transformers.split(".")[:2]) >= (5, 3) and installed <= "0.5.5":
        return f"kvpress {installed} needs transformers < 5.3, and {transformers} is installed"
    return None


CASES: dict[str, Callable[[Any, Tensor, int], Case]] = {
    "DynamicCache": dynamic,
    "SepCache s=128": sep_cache(LIMIT),
    "SepCache all": sep_cache(None),
    "kvpress": kvpress_decoding,
}


def _states(model: Any, batch: int, length: int, seed: int) -> tuple[Tensor, Tensor]:
    config = model.config
    generator = torch.Generator().manual_seed(seed)
    shape = (batch, config.num_key_value_heads, length, config.hidden_size // config.num_attention_heads)
    keys = torch.randn(shape, generator=generator)
    return keys, keys.clone()


def _no_attention(module: Any, query: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, None]:
    return query.transpose(1, 2).contiguous(), None


AttentionInterface.register(NO_ATTENTION, _no_attention)

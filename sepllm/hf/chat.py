"""Text and conversation without end on a cache of constant size, in a terminal: `sepllm-chat --model MODEL`.

Only new tokens are ever read: the past is what the cache still holds, and positions are places in the cache.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from sepllm.attention.separators import separator_ids, tokenizer_encoder
from sepllm.cache.sep_cache import SepCache
from sepllm.config import SepConfig
from sepllm.errors import SepLLMError


@dataclass(frozen=True)
class Sampling:
    """temperature 0: the most likely token. top_p: the smallest set of likely tokens with this much probability."""

    temperature: float = 0.0
    top_p: float = 1.0

    def choose(self, logits: Tensor) -> int:
        """A token id from float [vocabulary]."""
        if self.temperature <= 0:
            return int(logits.argmax())
        probabilities, order = (logits.float() / self.temperature).softmax(dim=-1).sort(descending=True)
        unlikely = probabilities.cumsum(dim=-1) - probabilities > self.top_p
        probabilities = probabilities.masked_fill(unlikely, 0.0)
        return int(order[torch.multinomial(probabilities, 1)])


@dataclass
class EndlessText:
    """A model that reads and writes one text for ever. cache: of `SepCache.for_model`; read: tokens so far."""

    model: Any
    cache: SepCache
    sampling: Sampling = field(default_factory=Sampling)
    read: int = 0
    _logits: Tensor | None = None

    @torch.inference_mode()
    def feed(self, token_ids: list[int]) -> None:
        """Read tokens; they may be as many as memory holds keys of at once."""
        ids = torch.tensor([token_ids], device=self.model.get_input_embeddings().weight.device)
        self._logits = self.model(input_ids=ids, past_key_values=self.cache, use_cache=True).logits[0, -1]
        self.read += len(token_ids)

    def write(self, most: int, stop: set[int]) -> Iterator[int]:
        """Tokens as they are chosen, at most `most`; a token of `stop` is read and ends the text."""
        for _ in range(most):
            if self._logits is None:
                raise SepLLMError("Nothing was read yet: feed a prompt first.")
            token = self.sampling.choose(self._logits)
            self.feed([token])
            if token in stop:
                return
            yield token


def endless_cache(model: Any, config: SepConfig | None, capacity: int) -> SepCache:
    """A lazily compressed cache of at most `capacity` tokens whose positions never exceed it."""
    settings: dict[str, Any] = {"schedule": "lazy", "APPLY_PE_SHIFT": True}
    if config is None:
        settings |= {"cache_size": capacity, "USE_MAX_SEP_CACHE": True}
    return SepCache.for_model(model, config, **settings)


def written(tokenizer: Any, tokens: Iterator[int]) -> Iterator[str]:
    """Text of tokens as soon as it is certain: half a character waits for its other half."""
    held: list[int] = []
    shown = ""
    for token in tokens:
        held.append(token)
        text = tokenizer.decode(held, skip_special_tokens=True)
        if not text.endswith("\ufffd"):
            yield text[len(shown) :]
            shown = text
            if text.endswith("\n"):  # nothing later changes how this is written
                held, shown = [], ""


class Conversation:
    """Turns as the tokenizer's chat template writes them; without one, the words as they are."""

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer
        self._last: list[dict[str, str]] = []  # the previous exchange, which shows how the next one is joined

    def ask(self, words: str) -> list[int]:
        """Tokens to read for what the user says."""
        tokenizer = self.tokenizer
        if not getattr(tokenizer, "chat_template", None):
            return list(tokenizer(words, add_special_tokens=not self._last)["input_ids"])
        turn = [{"role": "user", "content": words}]
        full = tokenizer.apply_chat_template(self._last + turn, tokenize=False, add_generation_prompt=True)
        before = tokenizer.apply_chat_template(self._last, tokenize=False) if self._last else ""
        text = full[len(before) :] if full.startswith(before) else full
        self._last = turn
        return list(tokenizer(text, add_special_tokens=False)["input_ids"])

    def answered(self, words: str) -> None:
        """What the model replied."""
        self._last = [*self._last, {"role": "assistant", "content": words}]


def main() -> None:
    """The command `sepllm-chat`."""
    flags = _parser().parse_args()
    try:
        _run(flags)
    except SepLLMError as error:
        print(f"sepllm-chat: {error}", file=sys.stderr)
        sys.exit(2)
    except (KeyboardInterrupt, EOFError):
        print()


def _run(flags: argparse.Namespace) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(flags.model, trust_remote_code=flags.trust_remote_code)
    model = AutoModelForCausalLM.from_pretrained(flags.model, trust_remote_code=flags.trust_remote_code, dtype="auto")
    model = model.to(flags.device or ("cuda" if torch.cuda.is_available() else "cpu")).eval()
    config = None
    if flags.separators:
        ids = separator_ids(tokenizer_encoder(tokenizer), flags.separators.encode().decode("unicode_escape"))
        config = SepConfig(
            separators=ids,
            init_tokens=flags.init_cache_size,
            window=flags.local_size,
            max_separators=flags.sep_cache_size,
            capacity=flags.cache_size,
        )
    torch.manual_seed(flags.seed)
    text = EndlessText(model, endless_cache(model, config, flags.cache_size), Sampling(flags.temperature, flags.top_p))
    stop = {token for token in [tokenizer.eos_token_id] if token is not None}
    conversation = Conversation(tokenizer)
    if flags.prompt is not None:
        text.feed(conversation.ask(flags.prompt))
        _show(tokenizer, text, flags.max_new_tokens, set() if flags.ignore_end else stop)
        print(_statistics(text), file=sys.stderr)
        return
    print("Write something; /stats shows the cache, an empty line or Ctrl-D ends.", file=sys.stderr)
    while words := input("> "):
        if words == "/stats":
            print(_statistics(text))
            continue
        text.feed(conversation.ask(words))
        conversation.answered(_show(tokenizer, text, flags.max_new_tokens, stop))


def _show(tokenizer: Any, text: EndlessText, most: int, stop: set[int]) -> str:
    parts = []
    for part in written(tokenizer, text.write(most, stop)):
        print(part, end="", flush=True)
        parts.append(part)
    print()
    return "".join(parts)


def _statistics(text: EndlessText) -> str:
    stats = text.cache.stats()
    kept = max(stats.tokens) if stats.tokens else 0
    return f"{text.read:,} tokens read; {kept:.0f} cached in {stats.bytes / 1e6:.2f} MB"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="sepllm-chat", description="Talk to a model, or let it write, without end.")
    add = parser.add_argument
    add("--model", required=True, help="folder, or name on the Hugging Face hub")
    add("--prompt", help="continue this text and stop, instead of a conversation")
    add("--max_new_tokens", type=int, default=256, metavar="N", help="of one answer (default: 256)")
    add("--ignore_end", action="store_true", help="with --prompt: write on over the model's end of text")
    add("--temperature", type=float, default=0.0, help="0: the most likely token (default)")
    add("--top_p", type=float, default=1.0)
    add("--seed", type=int, default=0)
    add("--separators", metavar="CHARACTERS", help="default: those known for the model")
    add("--init_cache_size", type=int, default=4, metavar="A")
    add("--sep_cache_size", type=int, default=128, metavar="S")
    add("--local_size", type=int, default=256, metavar="W")
    add("--cache_size", type=int, default=512, metavar="C")
    add("--device")
    add("--trust_remote_code", action="store_true")
    return parser


if __name__ == "__main__":
    main()

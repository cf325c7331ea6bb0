"""Our model as lm_eval's model: its requests become rows of token ids, scored by `Scorer` on whatever ranks there are.

Cuts, paddings and prefix tokens are those of lm_eval's own `hf` model, so that an export scores alike.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import torch
from lm_eval.api.instance import Instance
from lm_eval.api.model import TemplateLM
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window
from tqdm import tqdm

from megatron.errors import SettingsError
from megatron.evaluation.scorer import Scorer
from megatron.tokenizer.tokenizer import Tokenizer

_NEW_TOKENS = 256  # lm_eval's default
_COUNTS = ("max_gen_toks", "max_new_tokens", "max_tokens", "max_completion_tokens")
_GREEDY = {"do_sample", "temperature", "top_p", "top_k", "until", *_COUNTS}

Encoded = tuple[tuple[str, str] | None, list[int], list[int]]


class CheckpointLM(TemplateLM):
    """batch_size: rows per model copy. max_positions: longest text the model reads; what is longer loses its left."""

    def __init__(self, scorer: Scorer, tokenizer: Tokenizer, *, max_positions: int, batch_size: int) -> None:
        super().__init__()
        self._scorer, self._tokenizer = scorer, tokenizer
        self.max_length = max_positions
        self.batch_size = batch_size

    @property
    def eot_token_id(self) -> int:
        return self._tokenizer.eod

    @property
    def tokenizer_name(self) -> str:
        return f"{self._tokenizer.name}-{self._tokenizer.fingerprint[:12]}"

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **kwargs: Any) -> list[int]:
        return self._tokenizer.tokenize(string)

    def loglikelihood_rolling(self, requests: list[Instance], disable_tqdm: bool = False) -> list[float]:
        """Sum over each whole text, in windows that predict every token once."""
        windows: list[Encoded] = []
        owners: list[int] = []
        for number, request in enumerate(requests):
            cuts = get_rolling_token_windows(
                token_list=self.tok_encode(request.args[0]),
                prefix_token=self.prefix_token_id,
                max_seq_len=self.max_length,
                context_len=1,
            )
            for context, continuation in map(make_disjoint_window, cuts):
                windows.append((None, list(context), list(continuation)))
                owners.append(number)
        totals = [0.0] * len(requests)
        for owner, (value, _) in zip(owners, self._loglikelihood_tokens(windows, disable_tqdm), strict=True):
            totals[owner] += value
        return totals

    def _loglikelihood_tokens(
        self, requests: Sequence[Encoded], disable_tqdm: bool = False, **kwargs: Any
    ) -> list[tuple[float, bool]]:
        """(log likelihood, is greedy) of each continuation after its context."""
        texts = [(context + continuation)[-(self.max_length + 1) :] for _, context, continuation in requests]
        results: list[tuple[float, bool]] = [(0.0, False)] * len(requests)
        for chosen in _shown(self._batches([len(text) for text in texts]), len(texts), "loglikelihood", disable_tqdm):
            longest = max(len(texts[number]) for number in chosen) - 1
            rows = torch.zeros(len(chosen), longest + 1, dtype=torch.int64)
            for row, number in zip(rows, chosen, strict=True):
                row[: len(texts[number])] = torch.tensor(texts[number])
            values, likeliest = self._scorer.log_likelihoods(rows[:, :-1], rows[:, 1:])
            for row, number in enumerate(chosen):
                end = len(texts[number]) - 1
                part = slice(max(end - len(requests[number][2]), 0), end)
                results[number] = (float(values[row, part].sum()), bool(likeliest[row, part].all()))
                if requests[number][0] is not None:
                    self.cache_hook.add_partial("loglikelihood", requests[number][0], results[number])
        return results

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = False) -> list[str]:
        """Greedy continuations up to a stop text, the end of the document, or the most tokens that are asked for."""
        results = [""] * len(requests)
        groups: dict[str, list[int]] = {}
        for number, request in enumerate(requests):
            groups.setdefault(repr(request.args[1]), []).append(number)
        for numbers in groups.values():
            stops, count = self._generation(requests[numbers[0]].args[1])
            prompts = [self._prompt(requests[number].args[0], count) for number in numbers]
            batches = self._batches([len(prompt) for prompt in prompts])
            for chosen in _shown(batches, len(prompts), "generate_until", disable_tqdm):
                texts = self._continue([prompts[place] for place in chosen], stops, count)
                for place, text in zip(chosen, texts, strict=True):
                    results[numbers[place]] = text
                    self.cache_hook.add_partial("generate_until", requests[numbers[place]].args, text)
        return results

    def _prompt(self, text: str, count: int) -> list[int]:
        """The last ids that leave room for `count` new ones; an empty text starts with the end of a document."""
        return (self.tok_encode(text) or [self.prefix_token_id])[-(self.max_length - count) :]

    def _continue(self, prompts: list[list[int]], stops: Sequence[str], count: int) -> list[str]:
        longest = max(map(len, prompts))
        first_real = torch.tensor([longest - len(prompt) for prompt in prompts])
        rows = torch.tensor([[0] * (longest - len(prompt)) + prompt for prompt in prompts])
        new: list[list[int]] = [[] for _ in prompts]
        texts: list[str | None] = [None] * len(prompts)
        tokens = self._scorer.start(rows, first_real)
        while True:
            for row, token in enumerate(tokens.tolist()):
                if texts[row] is None:
                    texts[row] = self._end(new[row], token, stops, count)
            if all(text is not None for text in texts):
                return [text or "" for text in texts]
            tokens = self._scorer.continue_with(tokens)

    def _end(self, new: list[int], token: int, stops: Sequence[str], count: int) -> str | None:
        """Add the token; the finished text, or None if it goes on."""
        if token != self.eot_token_id:
            new.append(token)
        text = self._tokenizer.detokenize(new)
        found = [place for stop in stops if (place := text.find(stop)) >= 0]
        if found:
            return text[: min(found)]
        return text if token == self.eot_token_id or len(new) == count else None

    def _generation(self, asked: dict[str, Any]) -> tuple[list[str], int]:
        """(stop texts, most new tokens) of lm_eval's generation settings. Raises SettingsError for sampling."""
        temperature = float(asked.get("temperature") or 0.0)
        unknown = sorted(set(asked) - _GREEDY)
        if unknown or asked.get("do_sample", temperature > 0):
            what = f"{', '.join(unknown)} in" if unknown else "sampling in"
            raise SettingsError(
                f"eval_tasks: a task asks for {what} its generation_kwargs ({asked}); eval.py generates greedily. "
                "Export the checkpoint and use lm_eval --model hf, or set do_sample: false in the task."
            )
        count = int(next((asked[name] for name in _COUNTS if asked.get(name) is not None), _NEW_TOKENS))
        if not 0 < count < self.max_length:
            raise SettingsError(
                f"eval_tasks: a task generates up to {count} tokens, and the model has {self.max_length} positions. "
                f"Set max_gen_toks of the task below {self.max_length}."
            )
        until = asked.get("until") or []
        return [stop for stop in ([until] if isinstance(until, str) else until) if stop], count

    def _batches(self, lengths: Sequence[int]) -> Iterator[list[int]]:
        """Numbers of texts that are computed together, longest first: what does not fit fails at once."""
        order = sorted(range(len(lengths)), key=lambda number: -lengths[number])
        size = self.batch_size * self._scorer.replicas
        for start in range(0, len(order), size):
            yield order[start : start + size]


def _shown(batches: Iterable[list[int]], total: int, name: str, hidden: bool) -> Iterator[list[int]]:
    """The batches, with a progress bar in texts where a person watches."""
    with tqdm(total=total, desc=name, disable=True if hidden else None) as bar:
        for chosen in batches:
            yield chosen
            bar.update(len(chosen))

"""Log likelihoods and greedy tokens from a model on any layout: rank 0 asks, all ranks compute, rank 0 knows.

Rows are dealt to the replicas of the model. What rank 0 asks travels as one tensor of integers, what comes back as
one sum over all ranks to which only the ranks that know add something.
"""

from types import TracebackType

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor

from megatron.inference.shared_forward import SharedForward
from megatron.launcher import place
from megatron.model.kv_cache import KVCache

_STOP, _SCORE, _PROMPT, _CONTINUE = range(4)


class Scorer:
    """Made by every rank. Rank 0 uses it as a context manager; the others call `serve`, which ends with the context.

    vocab_size: of the tokenizer; the padding rows of the vocabulary above it are never generated.
    """

    def __init__(self, forward: SharedForward, vocab_size: int) -> None:
        self._forward, self._vocab_size = forward, vocab_size
        self._parallel = forward.parallel
        self._cache: KVCache | None = None
        self._text: Tensor | None = None
        self._first_real: Tensor | None = None

    @property
    def replicas(self) -> int:
        """Model copies that work side by side; a batch is best a multiple of it."""
        return self._parallel.data_size

    def log_likelihoods(self, inputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """int64 [rows, n] both: what is read, and what should follow each token. Right padding is harmless.

        Returns float64 [rows, n], natural logs of the targets' probabilities, and bool [rows, n]: each is likeliest.
        """
        rows, count = inputs.shape
        found = self._ask(_SCORE, torch.stack((inputs, targets), dim=1)).view(rows, 2, count)
        return found[:, 0], found[:, 1] > 0

    def start(self, tokens: Tensor, first_real: Tensor) -> Tensor:
        """Read left-padded prompts int64 [rows, n], first_real int64 [rows]; returns the likeliest next ids [rows]."""
        return self._ask(_PROMPT, torch.cat((first_real[:, None], tokens), dim=1))[:, 0].long()

    def continue_with(self, tokens: Tensor) -> Tensor:
        """Read one more id int64 [rows] of each prompt; returns the likeliest next ids [rows]."""
        return self._ask(_CONTINUE, tokens[:, None])[:, 0].long()

    def serve(self) -> None:
        """Work for rank 0 until it is done."""
        header = torch.zeros(3, dtype=torch.int64, device=self._forward.device)
        while True:
            dist.broadcast(header, 0)
            request, rows, columns = header.tolist()
            if request == _STOP:
                return
            content = torch.empty(rows, columns, dtype=torch.int64, device=self._forward.device)
            dist.broadcast(content, 0)
            self._answer(request, content)

    def __enter__(self) -> "Scorer":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self._parallel.world_size > 1:
            dist.broadcast(torch.tensor([_STOP, 0, 0], device=self._forward.device), 0)

    def _ask(self, request: int, content: Tensor) -> Tensor:
        content = content.flatten(1).contiguous().to(self._forward.device)
        if self._parallel.world_size > 1:
            dist.broadcast(torch.tensor([request, *content.shape], device=self._forward.device), 0)
            dist.broadcast(content, 0)
        return self._answer(request, content).cpu()

    def _answer(self, request: int, content: Tensor) -> Tensor:
        """float64 [rows, values], complete on every rank."""
        place.at("scoring")
        width = content.shape[1] if request == _SCORE else 1
        answer = torch.zeros(len(content), width, dtype=torch.float64, device=content.device)
        own = torch.arange(len(content), device=content.device).tensor_split(self.replicas)[self._parallel.data_rank]
        if len(own):
            found = self._score(content[own]) if request == _SCORE else self._next(request, content[own])
            if found is not None and self._parallel.tp.rank == 0:
                answer[own] = found
        if self._parallel.world_size > 1:
            dist.all_reduce(answer)
        return answer

    def _score(self, content: Tensor) -> Tensor | None:
        inputs, targets = content.view(len(content), 2, -1).unbind(1)
        logits = self._forward.logits(inputs)
        if logits is None:
            return None
        losses = F.cross_entropy(logits.float().flatten(0, 1), targets.flatten(), reduction="none")
        return torch.cat((-losses.view_as(targets).double(), (logits.argmax(dim=-1) == targets).double()), dim=1)

    def _next(self, request: int, content: Tensor) -> Tensor | None:
        if request == _PROMPT:
            self._first_real, tokens = content[:, 0], content[:, 1:]
            self._text = tokens
            self._cache = KVCache() if self._forward.can_cache else None
        else:
            assert self._text is not None
            tokens = content
            self._text = torch.cat((self._text, tokens), dim=1)
        if self._cache is None:
            tokens = self._text
        logits = self._forward.logits(tokens, first_real=self._first_real, cache=self._cache)
        return None if logits is None else logits[:, -1:, : self._vocab_size].argmax(dim=-1).double()

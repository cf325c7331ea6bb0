"""Negative log-likelihoods of a text of any length with a cache of constant size, for any causal LM of transformers.

Which tokens stay, and where they stand, depends on ids and positions alone, so whole blocks are read in one forward
and every token still sees exactly what it would see if the text were read one token at a time.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import DynamicCache

from sepllm.attention.rule import token_kinds
from sepllm.cache.policy import is_due, rank_tokens, survivors, visible
from sepllm.cache.position_shift import inverse_frequencies, rotate
from sepllm.config import SepConfig
from sepllm.errors import ConfigError, UnsupportedError
from sepllm.hf.stock import stock_model
from sepllm.streaming.block_attention import Block, Group, attention_in_blocks, groups_by_place, reading
from sepllm.streaming.kept import Kept
from sepllm.streaming.own_models import StreamCache, own_slopes
from sepllm.streaming.settings import StreamSettings, stream_settings

_LONGEST_BLOCK = 1024  # tokens of one forward: more need memory and are no faster
_RULE_BLOCK = 256  # the same where each query has its own places: keys are read in three ways


def stream_nll(
    model: Any,
    token_ids: Tensor,
    config: SepConfig,
    schedule: str = "lazy",
    block: int | str = "auto",
    position_shift: bool | str = True,
) -> Tensor:
    """-log p of every token but the first, given what the cache still holds: float64 [tokens - 1], in nats.

    token_ids: int64 [tokens]. config: a = init_tokens, n = window, s = max_separators, c = capacity.
    The other arguments are those of `StreamScorer`.
    """
    if token_ids.dim() != 1 or token_ids.shape[0] < 2:
        raise ConfigError(f"token_ids has shape {list(token_ids.shape)}; expected [tokens] with 2 tokens or more.")
    return StreamScorer(model, config, schedule, block, position_shift).feed(token_ids[:-1], token_ids[1:])


class StreamScorer:
    """A model and its cache, fed piece by piece; the cache is never reset.

    A model exported by this project leaves its own rule at the door: `config` says what is kept.

    schedule: "lazy" (the cache grows to c + 1 and is then cut to a + s + n; the paper's evaluation) or
        "every_token" (each token sees exactly what the mask rule keeps).
    block: most tokens per forward; "auto" as many as are exact. Results do not depend on it.
    position_shift: True: positions are places in the cache; False: keys keep the place at which they were written;
        "text": positions in the text, for models that bear long ones.
    attended, most_attended: keys seen (itself included), added up over the tokens read, and by any one of them.
    """

    def __init__(
        self,
        model: Any,
        config: SepConfig,
        schedule: str = "lazy",
        block: int | str = "auto",
        position_shift: bool | str = True,
    ) -> None:
        self.slopes = own_slopes(model)
        self.model = model = stock_model(model) if self.slopes is None else model
        self.settings: StreamSettings = stream_settings(config, schedule, block, position_shift)
        _check_model(model)
        has_rotary = any(hasattr(module, "inv_freq") for module in model.modules())
        turns_keys = self.slopes is None and self.settings.positions == "cache" and self.settings.evicts
        self.frequencies = inverse_frequencies(model) if has_rotary or turns_keys else None
        self.in_blocks = self.settings.evicts and self.settings.schedule == "every_token" and self.settings.block != 1
        self.kept = Kept()
        self.read = 0
        self.separators = 0
        self.attended = 0
        self.most_attended = 0
        self._live: Any = None  # transformers' cache, as long as nothing was dropped since it was filled

    @torch.inference_mode()
    def feed(self, inputs: Tensor, targets: Tensor, progress: Callable[[Tensor], None] = lambda nll: None) -> Tensor:
        """Read `inputs`, and return -log p of `targets`, the token that follows each: float64 [tokens].

        progress: called after each forward with the values it gave.
        """
        found = []
        device = self.model.get_input_embeddings().weight.device
        inputs, targets = inputs.to(device), targets.to(device)
        step = self._read_by_rule if self.in_blocks else self._read_cached
        with attention_in_blocks(self.model) if self.in_blocks and self.slopes is None else nullcontext():
            start = 0
            while start < inputs.shape[0]:
                stop = min(inputs.shape[0], start + self._most_at_once())
                logits = step(inputs[start:stop])
                found.append(_nll(logits, targets[start:stop]).cpu())
                progress(found[-1])
                start = stop
        return torch.cat(found) if found else torch.empty(0, dtype=torch.float64)

    def _most_at_once(self) -> int:
        settings = self.settings
        if self.in_blocks:
            return settings.block or _RULE_BLOCK
        most = settings.block or _LONGEST_BLOCK
        if not settings.evicts:
            return most
        if settings.schedule == "every_token":
            return 1
        assert settings.config.capacity is not None
        return min(most, settings.config.capacity + 1 - len(self.kept))

    def _append(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        """Positions and ranks of the next tokens of the text."""
        position = torch.arange(self.read, self.read + ids.shape[0])
        config = self.settings.config
        if config.mode == "full":
            return position, torch.full_like(position, -1)
        initial, marked = token_kinds(config, ids[None].cpu(), position, 0)
        rank = rank_tokens(initial, marked, self.separators)[0]
        self.separators += int((marked & ~initial).sum())
        return position, rank

    def _read_cached(self, ids: Tensor) -> Tensor:
        """One forward over tokens that all see everything cached -> logits [tokens, vocabulary]."""
        settings, count = self.settings, ids.shape[0]
        position, rank = self._append(ids)
        if settings.evicts and settings.schedule == "every_token":
            stays = survivors(
                torch.cat((self.kept.position, position))[None],
                torch.cat((self.kept.rank, rank))[None],
                torch.tensor([self.read + 1]),
                settings.window,
                settings.sizes().separators,
            )[0, :-1]
            self._drop(stays)
        places = torch.arange(len(self.kept), len(self.kept) + count)
        angle = position if settings.positions == "text" else places
        if self.slopes is None:
            logits = self._forward(ids, angle)
        else:
            logits = self._forward_in_groups([self._everything(places, angle)], ids, angle)
        self.kept.append(position, rank, angle)
        self._count(places + 1)
        self.read += count
        if settings.evicts and settings.schedule == "lazy":
            sizes = settings.sizes()
            assert sizes.capacity is not None
            if bool(is_due(sizes, torch.tensor([len(self.kept)]), sizes.capacity)):
                length = torch.tensor([self.read])
                self._drop(
                    survivors(self.kept.position[None], self.kept.rank[None], length, sizes.window, sizes.separators)[0]
                )
        return logits

    def _read_by_rule(self, ids: Tensor) -> Tensor:
        """One forward over tokens of which each sees what the mask rule keeps for it."""
        settings, kept = self.settings, self.kept
        limit = settings.sizes().separators
        position, rank = self._append(ids)
        all_positions, all_ranks = torch.cat((kept.position, position)), torch.cat((kept.rank, rank))
        seen = visible(
            position[None, :, None], all_positions[None, None], all_ranks[None, None], settings.window, limit
        )[0]
        place = seen.sum(dim=1) - 1
        angle = position if settings.positions == "text" else place
        if settings.positions == "cache":
            groups = groups_by_place(position, all_positions, all_ranks, seen, settings.window, limit)
        else:
            groups = [Group(torch.arange(len(all_positions)), seen, angle, torch.cat((kept.angle, angle)))]
        # Rotary keys are cached as at position 0, that is unrotated; the groups turn them.
        logits = self._forward_in_groups(groups, ids, angle if self.frequencies is None else torch.zeros_like(angle))
        kept.append(position, rank, angle)
        self._count(place + 1)
        self.read += ids.shape[0]
        self._drop(
            visible(
                torch.tensor([[[self.read]]]), kept.position[None, None], kept.rank[None, None], settings.window, limit
            )[0, 0]
        )
        return logits

    def _everything(self, places: Tensor, angle: Tensor) -> Group:
        """All that is cached, and the new tokens among themselves. places, angle: int64 [q], of the new tokens."""
        keys = torch.arange(len(self.kept) + len(places))
        held = keys[: len(self.kept)] if self.settings.positions == "cache" else self.kept.angle
        return Group(keys, keys <= places[:, None], angle, torch.cat((held, angle)))

    def _forward_in_groups(self, groups: list[Group], ids: Tensor, angle: Tensor) -> Tensor:
        """A forward whose attention is that of the groups -> logits [tokens, vocabulary]."""
        groups = [Group(*(tensor.to(ids.device) for tensor in vars(group).values())) for group in groups]
        with reading(Block(groups, self.frequencies, self.slopes), self.model):
            return self._forward(ids, angle)

    def _forward(self, ids: Tensor, angle: Tensor) -> Tensor:
        if self._live is None:
            self._live = self._filled_cache()
        output = self.model(
            input_ids=ids[None], position_ids=angle[None].to(ids.device), past_key_values=self._live, use_cache=True
        )
        return output.logits[0]

    def _drop(self, stays: Tensor) -> None:
        """Take over what the live cache has gathered, and keep a part of it. stays: bool [k]."""
        if bool(stays.all()):
            return
        self._take_over()
        self.kept.keep(stays)
        self._live = None

    def _take_over(self) -> None:
        """Copy keys and values from the live cache, unrotated where positions will be counted anew."""
        if self._live is None:
            return
        held = self.kept.keys[0].shape[2] if self.kept.keys else 0
        written = self.kept.angle[held:]
        if not len(written):
            return
        layers = self._live.layers
        keys = [layer.keys[:, :, held:] for layer in layers]
        if self._turning is not None:
            fine = torch.promote_types(keys[0].dtype, torch.float32)
            keys = [rotate(key.to(fine), -written.to(key.device), self._turning) for key in keys]
        self.kept.append_states(keys, [layer.values[:, :, held:] for layer in layers])

    def _filled_cache(self) -> Any:
        cache = DynamicCache() if self.slopes is None else StreamCache()
        places = torch.arange(len(self.kept))
        dtype = self.model.dtype
        for layer, (key, value) in enumerate(zip(self.kept.keys, self.kept.values, strict=True)):
            if self._turning is not None:
                key = rotate(key, places.to(key.device), self._turning).to(dtype)
            cache.update(key, value, layer)
        return cache

    @property
    def _turning(self) -> Tensor | None:
        """Rotary frequencies, where kept keys move to other places between forwards."""
        moves = self.settings.positions == "cache" and self.settings.evicts and not self.in_blocks
        return self.frequencies if moves else None

    def _count(self, attended: Tensor) -> None:
        self.attended += int(attended.sum())
        self.most_attended = max(self.most_attended, int(attended.max()))

    def cache_bytes(self) -> int:
        """Keys and values that are kept now."""
        self._take_over()
        return self.kept.bytes()

    def state(self) -> tuple[dict[str, Tensor], dict[str, int]]:
        """Tensors and numbers that `resume` takes back."""
        self._take_over()
        numbers = {name: getattr(self, name) for name in _NUMBERS}
        return self.kept.tensors(), numbers

    def resume(self, tensors: dict[str, Tensor], numbers: dict[str, int]) -> None:
        """Go on where `state` was taken, with the same model and settings."""
        self.kept = Kept.from_tensors(tensors, self.model.get_input_embeddings().weight.device)
        for name in _NUMBERS:
            setattr(self, name, int(numbers[name]))
        self._live = None


_NUMBERS = ("read", "separators", "attended", "most_attended")


def _nll(logits: Tensor, targets: Tensor) -> Tensor:
    """float64 [tokens] from [tokens, vocabulary]."""
    fine = torch.promote_types(logits.dtype, torch.float32)
    return F.cross_entropy(logits.to(fine), targets, reduction="none").double()


def _check_model(model: Any) -> None:
    config = model.config.get_text_config()
    name = type(model).__name__
    if getattr(config, "alibi", False) or config.model_type in ("bloom", "mpt"):
        raise UnsupportedError(
            f"{name} uses ALiBi, whose distances transformers takes from the cache. Use a rotary model."
        )
    if getattr(config, "sliding_window", None) is not None and getattr(config, "use_sliding_window", True):
        raise UnsupportedError(
            f"{name} has a sliding window of {config.sliding_window} tokens, which counts cached tokens and not the "
            "text's. Load it with sliding_window=None."
        )
    if getattr(config, "is_encoder_decoder", False):
        raise UnsupportedError(f"{name} is an encoder-decoder model; streaming reads causal language models.")

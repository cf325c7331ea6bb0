"""SepCache: a cache for models of transformers that keeps initial tokens, separators and a window (SepLLM).

    cache = SepCache.for_model(model)
    model.generate(**inputs, past_key_values=cache)

Rows of a batch may differ in padding and separators; each is cached as it would be alone.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers.cache_utils import Cache

from sepllm.cache.layer import SepLayer
from sepllm.cache.model_hook import connect
from sepllm.cache.policy import CacheSizes
from sepllm.cache.position_shift import inverse_frequencies, rotate
from sepllm.cache.presets import preset_for
from sepllm.cache.rows import Chunk, OneToken, Rows
from sepllm.cache.statistics import CacheStatistics
from sepllm.cache.step import CacheStep
from sepllm.cache.supported import own_rule, takes_sep_cache
from sepllm.config import SepConfig
from sepllm.errors import ConfigError, SepLLMError, UnsupportedError

_EVERYTHING = 2**30  # a window no text outgrows
PerLayer = int | None | Sequence[int | None]


class SepCache(Cache):
    """Constructor of the original SepCache, with its names and defaults.

    init_cache_size, sep_cache_size, local_size, cache_size: a, s, w, c; numbers, or lists with one per layer.
        sep_cache_size None keeps every separator.
    SEP_ACCUMULATION: False keeps only separators that left the window since the last compression.
    USE_MAX_SEP_CACHE: keep at most s separators; False lets s and c grow.
    SEP_PADDING_IN_BATCH: accepted and without effect: rows are kept apart, nothing is cut or doubled.
    separator_token_ids, PADDING_ID: or model_type, for the tokenizers of Llama 3, Pythia and Falcon.
    APPLY_PE_SHIFT: rotary positions are places in the cache. APPLY_PES_INSIDE: update() rotates; False: with the
        cos and sin of the call. base, pe_dim: of the rotation, unless `model` is given.
    schedule: "lazy" compresses once a cache holds c tokens, prompts are stored whole; "every_token" is the mask
        rule, and needs neither cache_size nor the two flags.
    layer_num: layers of the model. model: connect to it, so that it needs no code of its own; see for_model.
    offloading: keep layers on the CPU and bring them in turn to the GPU, as transformers' caches do.
    Raises ConfigError, UnsupportedError.
    """

    def __init__(
        self,
        init_cache_size: PerLayer = 4,
        sep_cache_size: PerLayer = 64,
        local_size: PerLayer = 256,
        cache_size: PerLayer = 512,
        SEP_ACCUMULATION: bool = True,
        USE_MAX_SEP_CACHE: bool = False,
        SEP_PADDING_IN_BATCH: bool = False,
        separator_token_ids: Sequence[int] | None = None,
        PADDING_ID: int | None = None,
        *,
        APPLY_PE_SHIFT: bool = False,
        APPLY_PES_INSIDE: bool = True,
        base: float = 10000.0,
        pe_dim: int = 128,
        layer_num: int | None = None,
        model_type: str | None = None,
        model: Any = None,
        schedule: str = "lazy",
        mode: str = "sepllm",
        interval: PerLayer = None,
        offloading: bool = False,
    ) -> None:
        if offloading and not torch.cuda.is_available():
            raise UnsupportedError("offloading moves layers between a GPU and the CPU, and this machine has no GPU.")
        super().__init__(layers=[], offloading=offloading)
        config = None if model is None else model.config.get_text_config()
        if mode == "sepllm" and separator_token_ids is None:
            if model_type is None:
                raise ConfigError(
                    "SepCache needs separator_token_ids (a list of token ids), or model_type for the tokenizers of "
                    "Llama 3, Pythia and Falcon."
                )
            preset = preset_for(model_type, None if config is None else config.vocab_size)
            separator_token_ids = preset.separators
            PADDING_ID = preset.padding if PADDING_ID is None else PADDING_ID
        if config is not None and layer_num is None:
            layer_num = config.num_hidden_layers
        self.separator_token_ids, self.PADDING_ID = tuple(separator_token_ids or ()), PADDING_ID
        self.APPLY_PE_SHIFT, self.APPLY_PES_INSIDE = APPLY_PE_SHIFT, APPLY_PES_INSIDE
        self.layer_num = layer_num
        self._frequencies = _frequencies(model, base, pe_dim) if APPLY_PE_SHIFT else None
        if APPLY_PE_SHIFT and schedule == "every_token":
            raise UnsupportedError(
                "Under schedule 'every_token' each token has other places for the tokens before it, which no cache of "
                "rotated prompts gives. Use schedule='lazy', or sepllm.stream_nll for scoring."
            )
        lists = {
            "init_cache_size": init_cache_size,
            "sep_cache_size": sep_cache_size,
            "local_size": local_size,
            "cache_size": cache_size,
            "interval": interval,
        }
        _check_lists(lists, layer_num)
        self._lists = lists
        self._mode, self._schedule = mode, schedule
        self._accumulate, self._grow = SEP_ACCUMULATION, schedule != "every_token" and not USE_MAX_SEP_CACHE
        self._groups: dict[tuple[CacheSizes, int | None], Rows] = {}
        for index in range(layer_num or 0):
            self._layer(index)
        if not self.layers:
            self._layer(0)
        if model is not None and not takes_sep_cache(model):
            connect(model).serves_caches = True

    @classmethod
    def for_model(cls, model: Any, config: SepConfig | None = None, **settings: Any) -> "SepCache":
        """A cache that `model.generate(**inputs, past_key_values=cache)` can use as it is.

        model: a causal language model of transformers.
        config: what is kept; its capacity only matters to the lazy schedules. None: the rule of a model exported by
            this project; for others a 4, s 128, w 256, and the separators known for the model's tokenizer, or those
            in settings.
        settings: of the constructor; schedule is "every_token" unless given.
        Raises ConfigError, and UnsupportedError for models that cannot be cached this way.
        """
        sizes = {"init_cache_size", "sep_cache_size", "local_size", "cache_size", "separator_token_ids"}
        if config is None and takes_sep_cache(model) and not sizes & set(settings):
            config = own_rule(model)
        settings = {"schedule": "every_token", "model": model, **settings}
        if config is not None:
            given = sorted(set(settings) & sizes)
            if given:
                raise ConfigError(f"{', '.join(given)} and a config both say what is kept. Give one of them.")
            return cls(**_settings_of(config), **settings)
        if "separator_token_ids" not in settings:
            settings.setdefault("model_type", model.config.get_text_config().model_type)
        return cls(**{"sep_cache_size": 128, **settings})

    def begin(self, token_ids: Tensor, real: Tensor | None) -> CacheStep:
        """Told by the model's hook before its layers: the next tokens of every row.

        token_ids: int64 [batch, new]; real: bool [batch, new], None: no padding among them.
        """
        for rows in self._groups.values():
            rows.feed(token_ids, real)
        return CacheStep(self.step_of, self.APPLY_PE_SHIFT)

    def waits_for_text(self) -> bool:
        """Whether some row has been nothing but padding so far."""
        return any(rows.waits_for_text for rows in self._groups.values())

    def update(
        self,
        key_states: Tensor,
        value_states: Tensor,
        layer_idx: int,
        input_ids: Any = None,
        PREFILLING_FLAG: bool | None = None,
        query_states: Tensor | None = None,
        position_ids: Tensor | None = None,
        cache_kwargs: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> tuple[Tensor, ...]:
        """Store new keys and values; return what to attend to, and the query when positions are shifted.

        key_states, value_states: [batch, kv_heads, new, head_dim]. Models that were connected need no more.
        In attention code of your own: input_ids [batch, new]; query_states, unrotated as the keys, with
        APPLY_PE_SHIFT. attention_mask(layer_idx) then says what to hide. position_ids are not needed: places in
        the cache are counted here.
        -> keys and values [batch, kv_heads, entries, head_dim], oldest first where input_ids were given; with
        APPLY_PE_SHIFT and query_states also the rotated query.
        """
        layer = self._layer(layer_idx)
        told = layer.seen + key_states.shape[2] == layer.rows.columns and layer.rows.step is not None
        unrotated = False
        if not told:
            if not isinstance(input_ids, Tensor):  # transformers 4 hands its cache_kwargs over in this place
                raise SepLLMError(
                    "This SepCache does not know the token ids of these keys. Make it with SepCache.for_model(model), "
                    "or hand input_ids to update(). If a forward pass was interrupted, call cache.reset()."
                )
            self._tell(layer.rows, input_ids, PREFILLING_FLAG)
        if isinstance(input_ids, Tensor):
            unrotated = self.APPLY_PE_SHIFT
        keys, values = super().update(key_states, value_states, layer_idx, {"unrotated": unrotated})
        if not unrotated or query_states is None:
            return keys, values
        step, frequencies = layer.rows.step, self._frequencies
        assert step is not None and step.places is not None and frequencies is not None
        new = query_states.shape[2]
        places = step.places[:, -new:] if isinstance(step, Chunk) else step.places.amax(dim=1, keepdim=True)
        return keys, values, rotate(query_states, places, frequencies)

    def _tell(self, rows: Rows, token_ids: Tensor, prefilling: bool | None) -> None:
        if prefilling is False and token_ids.shape[1] != 1:
            raise ConfigError(f"PREFILLING_FLAG is False, but {token_ids.shape[1]} tokens came; expected exactly 1.")
        rows.feed(token_ids, None if rows.columns else self._padding_of_prompt(token_ids), prefilling, ordered=True)

    def _padding_of_prompt(self, token_ids: Tensor) -> Tensor | None:
        """bool [batch, new], False for padding in front; None: no padding.

        Without an attention mask only ids tell. The longest row of a batch has no padding, so what it begins with
        is text, even where that token is the padding id (as the start token of Pythia is).
        """
        if self.PADDING_ID is None or token_ids.shape[0] == 1:
            return None
        leading = (token_ids == self.PADDING_ID).long().cumprod(dim=1).sum(dim=1)
        pads = leading - leading.min()
        if not bool(pads.any()):
            return None
        return torch.arange(token_ids.shape[1], device=token_ids.device) >= pads[:, None]

    def attention_mask(self, layer_idx: int) -> Tensor | None:
        """What the newest queries of a layer may look at among the entries update() returned.

        -> bool [batch, 1, new, entries], True = may look; None: everything (one new token) or plain causal.
        """
        return CacheStep(self.step_of, self.APPLY_PE_SHIFT).mask(layer_idx)

    def kept_positions(self, layer_idx: int = 0) -> list[list[int]]:
        """Per row, the columns of the batch whose keys this layer holds now, oldest first."""
        rows = self._layer(layer_idx).rows
        if rows.book is None:
            return []
        padding = (rows.columns - rows.book.length).tolist()
        return [
            sorted(entry + pads for entry in entries if entry >= 0)
            for entries, pads in zip(rows.book.position.tolist(), padding, strict=True)
        ]

    def stats(self) -> CacheStatistics:
        """Measured bytes and tokens; see CacheStatistics."""
        layers = [layer for layer in self.layers if layer.is_initialized]
        books = [layer.rows.book for layer in layers]
        held = sum(layer.bytes for layer in layers)
        per_token = sum(layer.bytes / (layer.keys.shape[0] * layer.rows.slots) for layer in layers)
        seen = books[0].length if books else torch.zeros(1)
        return CacheStatistics(
            bytes=held,
            dense_bytes=round(per_token * int(seen.sum())),
            tokens=[float(book.counts().float().mean()) for book in books],
            seen=float(seen.float().mean()),
            ratio=[float(book.attended.sum() / book.seen.sum()) for book in books],
        )

    def step_of(self, layer_idx: int) -> OneToken | Chunk:
        """What the layer does with the newest tokens."""
        step = self._layer(layer_idx).rows.step
        assert step is not None
        return step

    def _layer(self, index: int) -> SepLayer:
        while index >= len(self.layers):
            place = len(self.layers)
            if self.layer_num is not None and place >= self.layer_num:
                raise ConfigError(f"Layer {index} asked for its cache, but layer_num is {self.layer_num}.")
            self.layers.append(SepLayer(self._rows_of(place), self._frequencies))
        layer: SepLayer = self.layers[index]
        return layer

    def _rows_of(self, layer: int) -> Rows:
        """The book of a layer; layers with equal sizes share one."""
        values = {name: _entry(value, layer) for name, value in self._lists.items()}
        window, interval = values["local_size"], values["interval"]
        bounded = self._mode == "sepllm"
        sizes = CacheSizes(
            initial=values["init_cache_size"] or 0,
            separators=values["sep_cache_size"] if bounded or self._mode == "fixed" else 0,
            window=_EVERYTHING if self._mode == "full" or window is None else window,
            capacity=None if self._schedule == "every_token" else values["cache_size"],
            schedule=self._schedule,
            accumulate=self._accumulate,
            grow=self._grow and bounded and values["sep_cache_size"] is not None,
        )
        key = (sizes, interval)
        if key not in self._groups:
            config = SepConfig(
                separators=self.separator_token_ids,
                init_tokens=sizes.initial,
                mode="streaming" if self._mode == "full" else self._mode,
                interval=interval,
            )
            self._groups[key] = Rows(sizes, config, layer, self.APPLY_PE_SHIFT)
        return self._groups[key]

    def reset(self) -> None:
        """Forget everything; sizes stay."""
        for part in (*self._groups.values(), *self.layers):
            part.reset()

    def reorder_cache(self, beam_idx: Tensor) -> None:
        self.batch_select_indices(beam_idx)

    def batch_select_indices(self, indices: Tensor) -> None:
        """Rows by number, int64 [rows]."""
        for part in (*self._groups.values(), *self.layers):
            part.select(indices)

    def batch_repeat_interleave(self, repeats: int) -> None:
        """Each row `repeats` times, side by side."""
        books = [rows.book for rows in self._groups.values() if rows.book is not None]
        if books:
            batch = books[0].length.shape[0]
            self.batch_select_indices(torch.arange(batch, device=books[0].length.device).repeat_interleave(repeats))

    def crop(self, tokens_to_remove: int) -> None:
        """Take the newest tokens back: a negative number of them, or the length to cut to (transformers 4).

        Raises UnsupportedError where tokens that would be needed again were dropped meanwhile.
        """
        length = self.get_seq_length()
        remove = -tokens_to_remove if tokens_to_remove <= 0 else max(0, length - tokens_to_remove)
        for rows in self._groups.values():
            rows.crop(remove)
        for layer in self.layers:
            layer.seen -= remove


def _frequencies(model: nn.Module | None, base: float, pe_dim: int) -> Tensor:
    if model is not None:
        return inverse_frequencies(model)
    return base ** -(torch.arange(0, pe_dim, 2, dtype=torch.float32) / pe_dim)


def _settings_of(config: SepConfig) -> dict[str, Any]:
    return {
        "init_cache_size": config.init_tokens,
        "sep_cache_size": config.max_separators,
        "local_size": config.window,
        "cache_size": config.capacity,
        "USE_MAX_SEP_CACHE": True,
        "separator_token_ids": config.separators,
        "mode": config.mode,
        "interval": config.interval,
    }


def _check_lists(lists: dict[str, PerLayer], layer_num: int | None) -> None:
    for name, value in lists.items():
        if not isinstance(value, Sequence):
            continue
        if layer_num is None:
            raise ConfigError(f"{name} is a list, one entry per layer; give layer_num too.")
        if len(value) != layer_num:
            raise ConfigError(f"{name} has {len(value)} entries for {layer_num} layers (layer_num).")


def _entry(value: PerLayer, layer: int) -> int | None:
    return value[layer] if isinstance(value, Sequence) else value

"""What separator attention keeps: the paper's letters as one object, checked once. Needs no torch.

a initial tokens, n neighbouring tokens (the query itself included), s separators kept at most,
c capacity of the cache. SepLLM: arXiv 2412.12094.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from sepllm.attention.separators import separator_ids, tokenizer_encoder
from sepllm.errors import ConfigError, did_you_mean

MODES = ("sepllm", "streaming", "fixed", "full")


@dataclass(frozen=True)
class SepConfig:
    """Which earlier tokens a token may look at.

    separators: token ids that stay visible to every later token (mode "sepllm").
    init_tokens: a, tokens at the start that stay visible; counted from the first real token of a row.
    window: n, nearest tokens a query sees, itself included; one number, or one per layer. A window of at
        least the sequence length makes that layer fully causal.
    max_separators: s, only the newest s separators beyond the window stay visible; None keeps them all.
    capacity: c, tokens a cache may hold. A mask does not know it: it is the cache's schedule.
    interval: mode "fixed" keeps every interval-th token of a row instead of separators; one number, or
        one per layer.
    mode: "sepllm", "streaming" (initial tokens and window only), "fixed" or "full" (plain causal).
    init_per_document: where rows are packed from documents, count initial tokens (and fixed intervals)
        from the start of each document; False counts them once per row.

    Raises ConfigError for values that cannot be meant.
    """

    separators: Sequence[int] = ()
    init_tokens: int = 3
    window: int | Sequence[int] = 256
    max_separators: int | None = None
    capacity: int | None = None
    interval: int | Sequence[int] | None = None
    mode: str = "sepllm"
    init_per_document: bool = True

    def __post_init__(self) -> None:
        if self.mode not in MODES:
            raise ConfigError(
                f"mode is {self.mode!r}; known are {', '.join(MODES)}. {did_you_mean(str(self.mode), MODES)}"
            )
        object.__setattr__(self, "separators", _checked_separators(self.separators, self.mode))
        object.__setattr__(self, "window", _per_layer("window", self.window))
        _whole_number("init_tokens", self.init_tokens, least=0)
        if self.max_separators is not None:
            _whole_number("max_separators", self.max_separators, least=0)
        if self.mode == "fixed":
            if self.interval is None:
                raise ConfigError("mode 'fixed' needs interval=K: every K-th token stays visible.")
            object.__setattr__(self, "interval", _per_layer("interval", self.interval))
            _same_layers(self.window, self.interval)
        elif self.interval is not None:
            raise ConfigError(
                f"interval={self.interval!r} has no meaning in mode {self.mode!r}. Leave it out, or set mode='fixed'."
            )
        if self.capacity is not None:
            _check_capacity(self)

    @classmethod
    def from_tokenizer(cls, tokenizer: Any, strings: Iterable[str], **settings: Any) -> "SepConfig":
        """A SepConfig whose separators are the ids of `strings`; each must be a single token.

        tokenizer: of transformers, of tokenizers, of this project, or a function text -> ids.
        strings: a list of strings, or one string of which every character is a separator.
        """
        return cls(separators=separator_ids(tokenizer_encoder(tokenizer), strings), **settings)

    def window_for(self, layer: int) -> int:
        """n of this layer."""
        return _entry("window", self.window, layer)

    def interval_for(self, layer: int) -> int | None:
        """Interval of this layer; None outside mode "fixed"."""
        return None if self.interval is None else _entry("interval", self.interval, layer)


def _checked_separators(separators: Any, mode: str) -> tuple[int, ...]:
    if isinstance(separators, str | bytes) or not isinstance(separators, Iterable):
        raise ConfigError(
            f"separators is {separators!r}; expected a list of token ids. "
            "For characters use SepConfig.from_tokenizer(tokenizer, characters)."
        )
    ids = tuple(separators)
    for token in ids:
        if isinstance(token, bool) or not isinstance(token, int) or token < 0:
            raise ConfigError(
                f"separators holds {token!r}; expected token ids of 0 or more. "
                "For attention without separators set mode='streaming' or mode='full'."
            )
    if mode == "sepllm" and not ids:
        raise ConfigError(
            "mode 'sepllm' needs separators: token ids such as those of '.' and ','. "
            "For attention without separators set mode='streaming' or mode='full'."
        )
    return tuple(dict.fromkeys(ids))


def _whole_number(name: str, value: Any, least: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ConfigError(f"{name} is {value!r}; expected a whole number of {least} or more.")


def _per_layer(name: str, value: Any) -> int | tuple[int, ...]:
    if isinstance(value, Sequence) and not isinstance(value, str):
        entries = tuple(value)
        if not entries:
            raise ConfigError(f"{name} is an empty list; expected one number, or one per layer.")
        for layer, entry in enumerate(entries):
            _whole_number(f"{name}[{layer}]", entry, least=1)
        return entries
    _whole_number(name, value, least=1)
    return value


def _same_layers(window: Any, interval: Any) -> None:
    if isinstance(window, tuple) and isinstance(interval, tuple) and len(window) != len(interval):
        raise ConfigError(f"window has {len(window)} entries and interval {len(interval)}; both name the same layers.")


def _check_capacity(config: SepConfig) -> None:
    _whole_number("capacity", config.capacity, least=1)
    assert config.capacity is not None
    window = max(config.window) if isinstance(config.window, tuple) else config.window
    assert isinstance(window, int)
    separators = config.max_separators or 0
    needed = config.init_tokens + separators + window
    # With separators, one slot beyond a + s + n is what the next token needs before the cache shrinks.
    if config.capacity < needed + (1 if separators else 0):
        raise ConfigError(
            f"capacity is {config.capacity}, too small for init_tokens {config.init_tokens} + max_separators "
            f"{separators} + window {window} = {needed}. Raise capacity, or lower one of the others."
        )


def _entry(name: str, value: Any, layer: int) -> int:
    if isinstance(value, int):
        return value
    if not 0 <= layer < len(value):
        raise ConfigError(f"layer {layer} asked for its {name}, but {name} has {len(value)} entries.")
    return int(value[layer])

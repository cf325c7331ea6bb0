"""How a text without end is read: what stays cached, when the cache is compressed, where its tokens stand."""

from dataclasses import dataclass

from sepllm.cache.policy import CacheSizes
from sepllm.config import SepConfig
from sepllm.errors import ConfigError, did_you_mean

SCHEDULES = ("lazy", "every_token")
POSITIONS = ("cache", "stored", "text")


@dataclass(frozen=True)
class StreamSettings:
    """What `stream_nll` was asked for, checked.

    schedule: "lazy" compresses after the token that leaves more than c cached (the paper's evaluation);
        "every_token" is the mask rule, applied before each token.
    positions: "cache": where a token stands among the cached ones, newly counted at each step; "stored": where it
        stood when it was written, which later tokens may share; "text": where it stands in the text.
    block: most tokens of one forward; None takes as many as are exact and cheap. The result does not depend on it.
    """

    config: SepConfig
    schedule: str
    positions: str
    block: int | None

    @property
    def evicts(self) -> bool:
        return self.config.mode != "full"

    @property
    def window(self) -> int:
        return self.config.window_for(0)

    def sizes(self) -> CacheSizes:
        """a, s, w and c for the cache policy. Raises ConfigError for sizes without room."""
        config = self.config
        separators = 0 if config.mode == "streaming" else config.max_separators
        if self.schedule == "every_token":
            return CacheSizes(config.init_tokens, separators, self.window)
        return CacheSizes(config.init_tokens, separators, self.window, config.capacity, schedule="lazy_after")


def stream_settings(
    config: SepConfig, schedule: str = "lazy", block: int | str = "auto", position_shift: bool | str = True
) -> StreamSettings:
    """Check the arguments of `stream_nll`. position_shift: True "cache", False "stored", or a name.

    Raises ConfigError for values that cannot be meant or do not fit together.
    """
    positions = position_shift if isinstance(position_shift, str) else POSITIONS[0 if position_shift else 1]
    for name, value, known in (("schedule", schedule, SCHEDULES), ("position_shift", positions, POSITIONS)):
        if value not in known:
            raise ConfigError(f"{name} is {value!r}; known are {', '.join(known)}. {did_you_mean(str(value), known)}")
    if block != "auto" and (isinstance(block, bool) or not isinstance(block, int) or block < 1):
        raise ConfigError(f'block is {block!r}; expected a whole number of 1 or more, or "auto".')
    if not isinstance(config.window, int) or not isinstance(config.interval, int | None):
        raise ConfigError(
            "Windows or intervals per layer would give each layer a cache of its own length; streaming keeps one. "
            "Give one window for all layers."
        )
    settings = StreamSettings(config, schedule, positions, None if isinstance(block, str) else block)
    if not settings.evicts:
        return settings
    if schedule == "lazy" and config.capacity is None:
        raise ConfigError(
            "Schedule 'lazy' compresses when c tokens are cached: set capacity=c in SepConfig, "
            "or choose schedule='every_token'."
        )
    settings.sizes()
    return _without_slack(settings)


def _without_slack(settings: StreamSettings) -> StreamSettings:
    """Lazy with c = a + w and no separators compresses after every token: the mask rule with one neighbour more.

    A token then sees a + w cached ones and itself. Said as "every_token", it can be read in blocks.
    """
    config = settings.config
    assert config.capacity is None or isinstance(config.window, int)
    slackless = config.capacity == config.init_tokens + settings.window
    if settings.schedule == "lazy" and slackless and (config.mode == "streaming" or config.max_separators == 0):
        wider = SepConfig(mode="streaming", init_tokens=config.init_tokens, window=settings.window + 1)
        return StreamSettings(wider, "every_token", settings.positions, settings.block)
    return settings

"""SepConfig: what it refuses, and in which words."""

from typing import Any

import pytest

from sepllm.config import SepConfig
from sepllm.errors import ConfigError


def test_defaults_are_the_papers() -> None:
    config = SepConfig(separators=[13, 15])
    assert (config.init_tokens, config.window, config.mode, config.max_separators) == (3, 256, "sepllm", None)
    assert config.separators == (13, 15)
    assert config.window_for(99) == 256
    assert config.interval_for(0) is None


def test_lists_become_tuples_and_repeats_go() -> None:
    config = SepConfig(separators=[13, 15, 13], window=[4, 5])
    assert config.separators == (13, 15)
    assert config == SepConfig(separators=(13, 15), window=(4, 5))
    assert hash(config)
    assert [config.window_for(layer) for layer in (0, 1)] == [4, 5]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"mode": "stream"}, "'stream'.*'streaming'"),
        ({}, "mode='streaming'"),
        ({"separators": [-1]}, "-1.*mode='streaming'"),
        ({"separators": [1.5]}, "1.5"),
        ({"separators": [True]}, "True"),
        ({"separators": ".,"}, "from_tokenizer"),
        ({"separators": 13}, "13"),
        ({"separators": [1], "window": 0}, "window is 0"),
        ({"separators": [1], "window": "64"}, "window is '64'"),
        ({"separators": [1], "window": [4, 0]}, r"window\[1\] is 0"),
        ({"separators": [1], "window": []}, "empty"),
        ({"separators": [1], "init_tokens": -1}, "init_tokens is -1"),
        ({"separators": [1], "max_separators": -1}, "max_separators is -1"),
        ({"separators": [1], "interval": 4}, "mode='fixed'"),
        ({"mode": "fixed"}, "interval=K"),
        ({"mode": "fixed", "interval": 0}, "interval is 0"),
        ({"mode": "fixed", "interval": [2, 3], "window": [4, 4, 4]}, "3 entries and interval 2"),
        ({"separators": [1], "capacity": 32, "max_separators": 8, "window": 22}, "33.*Raise capacity"),
        ({"separators": [1], "capacity": 33, "max_separators": 8, "window": 22}, "33.*Raise capacity"),
        ({"mode": "streaming", "capacity": 9, "window": 7}, "= 10"),
    ],
)
def test_what_cannot_be_meant_is_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        SepConfig(**settings)


def test_capacities_that_just_suffice() -> None:
    assert SepConfig(separators=[1], capacity=34, max_separators=8, window=22).capacity == 34
    assert SepConfig(mode="streaming", capacity=10, window=7).capacity == 10


def test_a_layer_beyond_the_list_is_named() -> None:
    with pytest.raises(ConfigError, match=r"layer 2 .* window has 2 entries"):
        SepConfig(separators=[1], window=[4, 5]).window_for(2)


def test_from_tokenizer_takes_characters_or_strings() -> None:
    table = {".": [15], ",": [13], "\n\n": [535]}
    config = SepConfig.from_tokenizer(lambda text: table[text], ".,", window=8, init_tokens=1)
    assert (config.separators, config.window, config.init_tokens) == ((15, 13), 8, 1)
    assert SepConfig.from_tokenizer(lambda text: table[text], ["\n\n"]).separators == (535,)

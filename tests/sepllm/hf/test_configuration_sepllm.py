"""The rule in config.json is explicit, checked, and survives every spelling of the rotary settings."""

import pytest

from sepllm.hf.configuration_sepllm import SepLLMGPTNeoXConfig
from tests.sepllm.hf.tiny_model import RULES, tiny_config


def test_rotary_settings_are_kept_in_both_spellings() -> None:
    old = tiny_config(rotary_pct=0.4, rotary_emb_base=777, rope_parameters=None)
    new = SepLLMGPTNeoXConfig(rope_parameters={"rope_theta": 777, "partial_rotary_factor": 0.4})
    for config in (old, new):
        written = config.to_dict()
        assert (written["rotary_pct"], written["rotary_emb_base"]) == (0.4, 777)
        assert written["rope_parameters"]["partial_rotary_factor"] == 0.4
        assert written["rope_parameters"]["rope_theta"] == 777


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"windows": 3}, "windows"),
        ({"mode": "spiral"}, "'spiral'"),
        ({"window": None}, r"lacks \['window'\]"),
        ({"separator_token_ids": None}, "separator_token_ids"),
        ({"window": [4, 4]}, "2 entries for 3 layers"),
        ({"window": [4, 0, 4]}, "window is 0"),
        ({"init_tokens": -1}, "init_tokens is -1"),
    ],
)
def test_a_rule_that_cannot_be_meant_is_refused(change: dict, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        tiny_config(sepllm=RULES["sepllm"] | change).separator_rule()


def test_window_and_interval_per_layer() -> None:
    rule = tiny_config("fixed", sepllm=RULES["fixed"] | {"interval": [2, 3, 4]}).separator_rule()
    assert [rule.interval_for(layer) for layer in range(3)] == [2, 3, 4]
    assert [rule.window_for(layer) for layer in range(3)] == [5, 5, 5]

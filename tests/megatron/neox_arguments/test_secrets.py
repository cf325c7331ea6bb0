"""Keys in settings are refused by file and line, keys in messages hidden; neither shows them. All are made up here."""

import string

import pytest
import yaml

from megatron.errors import SettingsError
from megatron.neox_arguments.load import load_arguments
from megatron.neox_arguments.secrets import hide, secrets_in
from tests.megatron.neox_arguments.conftest import MINIMAL

LETTERS = string.ascii_letters[:40]
# Made of parts, so that no scanner takes this file for a leak.
LOOK_ALIKES = {
    "a Hugging Face token": "hf_" + LETTERS,
    "an AWS key": "AKIA" + "A1" * 8,
    "a GitHub token": "ghp_" + LETTERS,
    "an API key": "sk-" + LETTERS,
    "a private key": "-----BEGIN OPENSSH PRIVATE" + " KEY-----",
    "a password in an address": "https://me:" + "pass@example.org/x",
}
ENVIRONMENT = {
    "HF_TOKEN": "canary-one-1",
    "AWS_SECRET_ACCESS_KEY": "canary-one-1-and-more",
    "MY_PASSWORD": "canary-two",
    "SHORT_KEY": "abc",
    "HF_HOME": "/a/long/folder/name",
    "TOKENIZERS_PARALLELISM": "falsefalsefalse",
}


@pytest.mark.parametrize("what", LOOK_ALIKES)
@pytest.mark.parametrize("place", ["comment", "value", "override"])
def test_settings_with_a_key_are_refused_before_anything_is_shown(tmp_path, what, place):
    secret, overrides = LOOK_ALIKES[what], []
    text = yaml.safe_dump({**MINIMAL, "hidden_sise": 1}, width=1000)
    if place == "comment":
        text = f"# {secret}\n" + text
    elif place == "value":
        text = f"wandb_host: '{secret}'\n" + text
    else:
        overrides = [f"wandb_host={secret}"]
    (tmp_path / "a.yml").write_text(text)
    with pytest.raises(SettingsError, match=f"this looks like {what}") as caught:
        load_arguments([tmp_path / "a.yml"], overrides)
    message = str(caught.value)
    assert ("--set wandb_host: " if place == "override" else "a.yml:1: ") in message
    assert secret not in message and "forward_environment" in message and "hidden_sise" not in message


def test_the_value_of_a_variable_is_known_too():
    assert list(secrets_in("a: 1\nb: canary-one-1 # x\n", ENVIRONMENT)) == [(2, "the value of HF_TOKEN")]
    assert list(secrets_in("abc canary-two /a/long/folder/name falsefalsefalse", ENVIRONMENT)) == []


def test_what_is_printed_names_the_variable_instead():
    text = "canary-one-1-and-more canary-one-1 canary-two abc /a/long/folder/name"
    assert hide(text, ENVIRONMENT) == "<AWS_SECRET_ACCESS_KEY> <HF_TOKEN> <MY_PASSWORD> abc /a/long/folder/name"
    for what, secret in LOOK_ALIKES.items():
        hidden = hide(f"<{secret}>", {})
        assert "<hidden>" in hidden and LETTERS not in hidden and "pass@" not in hidden, what


def test_ordinary_text_is_left_alone():
    text = "commit 91febab4a5c9d1e0f6b7a8091a2b3c4d5e6f7a8b sk-learn hf_hub https://api.wandb.ai http://a:8080/x AKIA"
    assert hide(text, {}) == text and not list(secrets_in(text, {}))

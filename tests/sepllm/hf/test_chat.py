"""Endless text: what is written equals writing with everything cached while that is allowed, and memory stays."""

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from sepllm.config import SepConfig
from sepllm.errors import SepLLMError
from sepllm.hf import chat
from sepllm.hf.chat import Conversation, EndlessText, Sampling, endless_cache, written
from tests.sepllm.streaming.tiny_models import random_ids, tiny_model

CONFIG = SepConfig(separators=[3, 7, 11], init_tokens=2, window=8, max_separators=4, capacity=30)


def test_short_texts_are_the_models_own() -> None:
    model = tiny_model("llama", torch.float32)
    prompt = random_ids(10).tolist()
    text = EndlessText(model, endless_cache(model, CONFIG, 30))
    text.feed(prompt)
    found = list(text.write(12, set()))
    ids = torch.tensor([prompt])
    expected = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=12, do_sample=False)
    assert found == expected[0, 10:].tolist()


def test_long_texts_keep_a_cache_of_constant_size() -> None:
    model = tiny_model("llama", torch.float32, max_position_embeddings=64)
    text = EndlessText(model, endless_cache(model, CONFIG, 30), Sampling(1.0, 0.9))
    text.feed(random_ids(20).tolist())
    sizes = []
    for _ in range(4):
        list(text.write(60, set()))
        sizes.append(text.cache.stats().bytes)
    assert text.read == 260 and len(set(sizes)) == 1
    assert max(text.cache.stats().tokens) <= 30


def test_a_stop_token_is_read_and_not_shown() -> None:
    model = tiny_model("llama", torch.float32)
    text = EndlessText(model, endless_cache(model, CONFIG, 30))
    with pytest.raises(SepLLMError, match="feed a prompt"):
        next(text.write(1, set()))
    text.feed([1, 2, 3])
    first = list(text.write(5, set()))
    again = EndlessText(model, endless_cache(model, CONFIG, 30))
    again.feed([1, 2, 3])
    assert list(again.write(5, {first[2]})) == first[: first.index(first[2])]
    assert again.read == 3 + first.index(first[2]) + 1


def test_sampling_keeps_to_the_likely() -> None:
    logits = torch.tensor([0.0, 3.0, 2.9, -5.0])
    assert Sampling().choose(logits) == 1
    torch.manual_seed(0)
    assert {Sampling(1.0, 0.9).choose(logits) for _ in range(50)} == {1, 2}


def test_half_characters_wait() -> None:
    pieces = {1: b"a", 2: "\u00e9".encode()[:1], 3: "\u00e9".encode()[1:], 4: b"\n", 5: b"z"}
    tokenizer = SimpleNamespace(
        decode=lambda ids, skip_special_tokens: b"".join(pieces[i] for i in ids).decode(errors="replace")
    )
    assert list(written(tokenizer, iter([1, 2, 3, 4, 5]))) == ["a", "\u00e9", "\n", "z"]


class Templated:
    """A tokenizer with a chat template; a token per character."""

    chat_template = "yes"

    def apply_chat_template(self, messages: list[dict[str, str]], tokenize: bool, **kwargs: Any) -> str:
        text = "".join(f"<{message['role'][0]}>{message['content']}</>" for message in messages)
        return "^" + text + ("<a>" if kwargs.get("add_generation_prompt") else "")

    def __call__(self, text: str, add_special_tokens: bool) -> dict[str, list[int]]:
        assert not add_special_tokens
        return {"input_ids": [ord(character) for character in text]}


def test_turns_are_joined_as_the_template_joins_them() -> None:
    conversation = Conversation(Templated())

    def said(words: str) -> str:
        return "".join(map(chr, conversation.ask(words)))

    assert said("hi") == "^<u>hi</><a>"
    conversation.answered("yo")
    assert said("how") == "<u>how</><a>"


def test_as_a_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    from tests.megatron.importing.hf_models import write_hf_model

    model = write_hf_model(tmp_path / "model", "gpt_neox")
    (model / "tokenizer_config.json").write_text('{"tokenizer_class": "PreTrainedTokenizerFast"}')
    sizes = ["--init_cache_size", "2", "--sep_cache_size", "4", "--local_size", "8", "--cache_size", "30"]
    flags = ["--model", str(model), "--separators", ".,\\n", *sizes]
    monkeypatch.setattr(sys, "argv", ["sepllm-chat", *flags, "--prompt", "The fox.", "--max_new_tokens", "60"])
    chat.main()
    output = capsys.readouterr()
    assert output.out.strip() and "cached in" in output.err
    answers = iter(["Hello.", "/stats", "Again.", ""])
    monkeypatch.setattr("builtins.input", lambda prompt: next(answers))
    monkeypatch.setattr(sys, "argv", ["sepllm-chat", *flags, "--max_new_tokens", "5"])
    chat.main()
    assert "cached in" in capsys.readouterr().out
    monkeypatch.setattr(sys, "argv", ["sepllm-chat", "--model", str(model), "--prompt", "x"])
    with pytest.raises(SystemExit) as ended:
        chat.main()
    assert ended.value.code == 2 and "320 tokens" in capsys.readouterr().err

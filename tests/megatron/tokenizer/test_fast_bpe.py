"""The fast encoder is used only where it gives the ids of `tokenizers`, and every disagreement is found out."""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from megatron.tokenizer import fast_bpe
from megatron.tokenizer.fast_bpe import EncodersDisagree, FastEncoder, choose_encoder
from megatron.tokenizer.hard_texts import HARD_TEXTS
from megatron.tokenizer.hugging_face import HuggingFaceTokenizer, tokenizer_json
from megatron.tokenizer.tokenizer import build_tokenizer
from tests.helpers.shared import shared_folder
from tests.helpers.tiny_tokenizer import write_gpt2_files, write_tokenizer_json


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> HuggingFaceTokenizer:
    return tokenizer_json(write_tokenizer_json(tmp_path_factory.mktemp("tokenizer") / "tokenizer.json"))


def encoder_that(tokenizer: HuggingFaceTokenizer, spoil: Callable[[str, list[int]], list[int]]) -> Any:
    """Stands in for the library: the right ids, spoilt."""
    return lambda _: lambda text: np.array(spoil(text, tokenizer.tokenize(text)), dtype=np.uint32)


def test_same_ids_on_hard_texts_and_books() -> None:
    pytest.importorskip("gigatoken")
    tokenizer = build_tokenizer("HFTokenizer", shared_folder("data", "20B_tokenizer.json"))
    fast, about = choose_encoder(tokenizer)
    assert fast is not None
    assert "gigatoken" in about
    sources = sorted(shared_folder("reference", "goldens_data", "src").glob("[abc].jsonl"))
    texts = [json.loads(line)["text"] for path in sources for line in path.read_text().splitlines()]
    texts += HARD_TEXTS
    assert [ids.tolist() for ids in fast.encode(texts)] == tokenizer.tokenize_batch(texts)


def test_both_forms_of_a_vocabulary(tmp_path: Path) -> None:
    pytest.importorskip("gigatoken")
    vocabulary, merges = write_gpt2_files(tmp_path)
    for tokenizer in (
        build_tokenizer("GPT2BPETokenizer", vocabulary, merges),
        build_tokenizer("HFTokenizer", tmp_path / "tokenizer.json"),
    ):
        fast, _ = choose_encoder(tokenizer)
        assert fast is not None
        assert fast.encode(["The lazy dog<|endoftext|>"])[0].tolist() == tokenizer.tokenize("The lazy dog<|endoftext|>")


def test_a_wrong_id_in_a_hard_text_means_the_plain_encoder(
    tokenizer: HuggingFaceTokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    def spoil(text: str, ids: list[int]) -> list[int]:
        return ids[:-1] if "cafe\u0301" in text else ids

    monkeypatch.setattr(fast_bpe, "_load", encoder_that(tokenizer, spoil))
    fast, about = choose_encoder(tokenizer)
    assert fast is None
    assert about.startswith("encoder: tokenizers, encode_batch_fast, because gigatoken and tokenizers give different")
    assert "caf" in about


def test_a_wrong_id_in_the_text_itself_is_found(
    tokenizer: HuggingFaceTokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    def spoil(text: str, ids: list[int]) -> list[int]:
        return [ids[0] + 1, *ids[1:]] if "unheard-of" in text else ids

    monkeypatch.setattr(fast_bpe, "_load", encoder_that(tokenizer, spoil))
    fast = FastEncoder(tokenizer)
    fast.encode(["The lazy dog"] * 3)
    with pytest.raises(EncodersDisagree, match="unheard-of"):
        fast.encode(["The fox", "an unheard-of dog"])


def test_the_share_that_is_compared(tokenizer: HuggingFaceTokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
    """The start in full, then one part in 500, in whole documents, long ones too."""
    monkeypatch.setattr(fast_bpe, "_load", encoder_that(tokenizer, lambda text, ids: ids))
    monkeypatch.setattr(fast_bpe, "HARD_TEXTS", [])
    fast = FastEncoder(tokenizer)
    monkeypatch.setattr(fast, "_encode", lambda text: np.zeros(1))
    compared: list[int] = []
    monkeypatch.setattr(fast, "_compare", lambda texts, ids: compared.extend(map(len, texts)))
    texts = ["x" * 4000] * 2000 + ["y" * 20_000] * 600
    for start in range(0, len(texts), 100):
        fast.encode(texts[start : start + 100])
    assert compared[:4] == [4000] * 4
    assert 20_000 in compared
    total = sum(map(len, texts))
    assert total / 500 - 20_000 <= sum(compared) <= total / 500 + fast_bpe.CHECKED_AT_FIRST


def test_without_the_library_it_is_named(tokenizer: HuggingFaceTokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "gigatoken", None)
    assert choose_encoder(tokenizer)[0] is None
    assert "pip install gigatoken" in choose_encoder(tokenizer)[1]


def test_a_vocabulary_the_library_cannot_read(tokenizer: HuggingFaceTokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: HuggingFaceTokenizer) -> None:
        raise ValueError("unsupported pre-tokenizer")

    monkeypatch.setattr(fast_bpe, "_load", refuse)
    fast, about = choose_encoder(tokenizer)
    assert fast is None
    assert "cannot read this vocabulary: unsupported pre-tokenizer" in about


def test_other_kinds_keep_their_own() -> None:
    fast, about = choose_encoder(build_tokenizer("CharLevelTokenizer", None))
    assert fast is None
    assert "CharLevelTokenizer" in about

"""One chunk of documents: ids per document, end marks, repair, and what is left out."""

import sys
from typing import Any

import pytest

from megatron.data.encode_documents import Encoder, EncodeSettings
from megatron.data.text_files import RawDocument
from megatron.errors import SettingsError
from megatron.tokenizer.tokenizer import build_tokenizer
from tests.helpers.tiny_tokenizer import write_tokenizer_json


@pytest.fixture(scope="module")
def vocabulary(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(write_tokenizer_json(tmp_path_factory.mktemp("tokenizer") / "tokenizer.json"))


def encoder(vocabulary: str, **given: Any) -> Encoder:
    values = {"tokenizer_type": "HFTokenizer", "vocab_file": vocabulary, "merge_file": None, "keys": ("text",)}
    return Encoder(EncodeSettings(**{**values, "append_eod": True, "ftfy": False, **given}))


def documents(*texts: str) -> list[RawDocument]:
    return [RawDocument("a", line, 0, text.encode()) for line, text in enumerate(texts, start=1)]


@pytest.mark.parametrize("append_eod", [True, False])
def test_ids_and_sizes(vocabulary: str, append_eod: bool) -> None:
    texts = ["The lazy dog", "", "caf\u00e9"]
    encoded = encoder(vocabulary, append_eod=append_eod).encode(documents(*texts))
    tokenizer = build_tokenizer("HFTokenizer", vocabulary)
    rows = [tokenizer.tokenize(text) + [tokenizer.eod] * append_eod for text in (texts[0], texts[2])]
    assert encoded.ids[0].tolist() == rows[0] + rows[1]
    assert encoded.sizes[0].tolist() == [len(row) for row in rows]
    assert (encoded.ids[0].dtype, encoded.num_documents) == ("uint16", 2)
    assert encoded.text_bytes == len("The lazy dog") + 5
    assert encoded.rejects == ["a:2:0: the text under 'text' is empty"]


def test_nothing_in_nothing_out(vocabulary: str) -> None:
    encoded = encoder(vocabulary).encode(documents(""))
    assert (encoded.num_documents, len(encoded.ids[0])) == (0, 0)


def test_a_text_without_tokens_is_left_out(vocabulary: str, monkeypatch: pytest.MonkeyPatch) -> None:
    stripping = encoder(vocabulary)
    monkeypatch.setattr(stripping, "repair", str.strip)
    encoded = stripping.encode(documents("x", " ", "y"))
    assert encoded.rejects == ["a:2:0: the text has no tokens"]
    assert encoded.sizes[0].tolist() == [2, 2]


def test_ftfy(vocabulary: str) -> None:
    pytest.importorskip("ftfy")
    encoded = encoder(vocabulary, ftfy=True, append_eod=False).encode(documents("caf\u00c3\u00a9"))
    assert encoded.ids[0].tolist() == build_tokenizer("HFTokenizer", vocabulary).tokenize("caf\u00e9")


def test_ftfy_is_named_when_missing(vocabulary: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ftfy", None)
    with pytest.raises(SettingsError, match="pip install ftfy"):
        encoder(vocabulary, ftfy=True)

"""Every separator is one token, stays alone next to anything, and text survives the round trip."""

import functools
import json
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer

from training_examples.quickstart import train_tokenizer as tool

TEXTS = [
    "The file is closed, and the reader (if any) is told so.\n\nWhat then? It ends; at once: done!\tYes...",
    "Returns a list of names, each of them a string.  The names are sorted (see also: the index).",
] * 20


@functools.cache
def trained() -> Tokenizer:
    return tool.train_tokenizer(TEXTS, vocab_size=400)


@pytest.fixture
def tokenizer() -> Tokenizer:
    return trained()


def test_each_separator_is_one_token_and_end_of_text_is_special(tokenizer: Tokenizer) -> None:
    ids = {tool.single_id(tokenizer, separator) for separator in tool.SEPARATORS}
    assert len(ids) == len(tool.SEPARATORS) == 9
    assert tokenizer.encode(tool.END_OF_TEXT).ids == [tokenizer.token_to_id(tool.END_OF_TEXT)] == [0]
    with pytest.raises(ValueError, match="takes 2 tokens"):
        tool.single_id(tokenizer, "..")


@given(st.text(alphabet="ab ().\"'?!;:,\t\n1é", max_size=60))
def test_separators_stay_alone_and_text_comes_back(text: str) -> None:
    tokenizer = trained()
    encoded = tokenizer.encode(text)
    alone = {tool.single_id(tokenizer, separator) for separator in tool.SEPARATORS if separator != " "}
    assert sum(number in alone for number in encoded.ids) == sum(text.count(s) for s in tool.SEPARATORS if s != " ")
    assert tokenizer.decode(encoded.ids) == text


def test_share_counts_what_stands_in_the_text(tokenizer: Tokenizer) -> None:
    share = tool.separator_share(tokenizer, ["The names are sorted.", "What then?  It is: done"])
    assert (share.alone, share.characters) == (3, 3)
    assert share.separators == 4, "three marks, and the first of the two blanks stands alone"


def test_command_line_writes_a_tokenizer_that_loads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    corpus, output = tmp_path / "train.jsonl", tmp_path / "tokenizer.json"
    corpus.write_text("".join(json.dumps({"text": text}) + "\n" for text in TEXTS))
    arguments = ["train_tokenizer", "--input", str(corpus), "--output", str(output), "--vocab-size", "300"]
    monkeypatch.setattr(sys, "argv", arguments)
    assert tool.main() == 0
    assert Tokenizer.from_file(str(output)).get_vocab_size() == 300
    shown = capsys.readouterr().out
    assert "separators '.'=" in shown and " of them separators (" in shown

"""Texts to measure on: real ones with their lines joined, random ones at the stated rate."""

from pathlib import Path

import pytest
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Split

from benchmarks.texts import random_text, read_text


def _tokenizer(path: Path) -> Path:
    model = Tokenizer(WordLevel({"a": 0, " ": 1, "\n": 2, "b": 3}, unk_token="a"))
    model.pre_tokenizer = Split("", "isolated")
    model.save(str(path))
    return path


def test_wrapped_lines_are_joined(tmp_path: Path) -> None:
    (tmp_path / "1.txt").write_text("a\nb\n\na", encoding="utf-8")
    text = read_text(tmp_path, _tokenizer(tmp_path / "tokenizer.json"), (1,), 6)
    assert text.ids.tolist() == [0, 1, 3, 2, 2, 0]
    assert text.share(6) == pytest.approx(1 / 6)
    assert text.row(2).tolist() == [[0, 1]]


def test_the_text_with_the_median_share_of_separators(tmp_path: Path) -> None:
    for number, text in enumerate(["aaaaaaaa", "a    aaa", "aa aaaaa", "  "]):
        (tmp_path / f"{number}.txt").write_text(text, encoding="utf-8")
    text = read_text(tmp_path, _tokenizer(tmp_path / "tokenizer.json"), (1,), 8)
    assert text.share(8) == pytest.approx(1 / 8) and text.source.startswith("2.txt")


def test_too_little_text_is_said(tmp_path: Path) -> None:
    (tmp_path / "1.txt").write_text("ab", encoding="utf-8")
    with pytest.raises(SystemExit, match=r"no \.txt file of 6 tokens"):
        read_text(tmp_path, _tokenizer(tmp_path / "tokenizer.json"), (1,), 6)


def test_random_separators_at_the_stated_rate() -> None:
    text = random_text(20_000, 0.15)
    assert text.share(20_000) == pytest.approx(0.15, abs=0.01)
    assert "0.15" in text.source

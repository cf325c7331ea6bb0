"""The corpus is English prose, each paragraph once, and the held-out part is fixed by content."""

import json
from pathlib import Path

import pytest

from training_examples.quickstart import corpus

DOCSTRING = '''"""Reads a file of settings.

    This is the first paragraph of the text, and it is broken
    over two lines for the reader.

    >>> this is an example of the code, and it is not prose for the corpus
    3

    key    value     other     columns    of | a | table | 1234 | 5678 | 9101

    This is the first paragraph of the text, and it is broken over two lines for the reader.

    The last of the paragraphs is a list, and it is kept:
    - the one is in the list
    - the other is in the list
"""
'''


def test_prose_is_kept_and_joined_and_code_is_left_out() -> None:
    kept = list(corpus.prose_paragraphs(DOCSTRING.strip('"\n')))
    assert kept[0] == "This is the first paragraph of the text, and it is broken over two lines for the reader."
    assert kept[-1].splitlines()[1:] == ["- the one is in the list", "- the other is in the list"]
    assert not any(">>>" in paragraph or "|" in paragraph for paragraph in kept)


def test_docstrings_are_read_without_importing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "site-packages").mkdir()
    (tmp_path / "site-packages" / "other.py").write_text('"""This is not of the library and it is left out."""')
    (tmp_path / "explosive.py").write_text(
        f"{DOCSTRING}\nraise SystemExit('imported')\ndef f():\n"
        '    """This is the text of a function, and it is long enough for the corpus, so it is kept in it."""\n'
    )
    (tmp_path / "broken.py").write_text("def (:")
    monkeypatch.setattr(corpus.sysconfig, "get_path", lambda name: str(tmp_path))
    monkeypatch.setattr(corpus, "_topics", lambda: iter(()))
    (document,) = corpus.documents()
    assert document.source == "explosive.py"
    assert document.text.count("This is the first paragraph") == 1, "a repeated paragraph is kept once"
    assert document.text.endswith("so it is kept in it.")


def test_paragraphs_are_unique_across_documents_and_documents_closed_in_time() -> None:
    seen: set[bytes] = set()
    first = list(corpus._first_time(["The one, and only.", "the ONE and only"], seen))
    assert first == ["The one, and only."]
    assert list(corpus._first_time(["The one and only"], seen)) == []
    long = [f"{number} " + "word " * 100 for number in range(20)]
    parts = [document.text for document in corpus._join("x", long)]
    assert all(corpus.DOCUMENT_CHARACTERS < len(part) < corpus.DOCUMENT_CHARACTERS + 600 for part in parts[:-1])
    assert "\n\n".join(parts).split("\n\n") == long


def test_one_in_twenty_is_held_out_by_content() -> None:
    texts = [f"text number {number}" for number in range(4000)]
    held = [text for text in texts if corpus.is_held_out(text)]
    assert 0.035 < len(held) / len(texts) < 0.065
    assert held == [text for text in reversed(texts) if corpus.is_held_out(text)][::-1]


@pytest.mark.slow
def test_this_python_carries_a_corpus_of_a_million_characters(tmp_path: Path) -> None:
    counts = corpus.write_corpus(tmp_path)
    assert counts["train_characters"] + counts["heldout_characters"] > corpus.SMALLEST_CORPUS
    assert 0.02 < counts["heldout_documents"] / (counts["train_documents"] + counts["heldout_documents"]) < 0.08
    rows = [json.loads(line) for line in (tmp_path / "train.jsonl").read_text("utf-8").splitlines()]
    assert len(rows) == counts["train_documents"]
    paragraphs = [paragraph for row in rows for paragraph in row["text"].split("\n\n")]
    assert len(set(paragraphs)) == len(paragraphs)
    assert {row["source"].startswith("pydoc topic") for row in rows} == {True, False}

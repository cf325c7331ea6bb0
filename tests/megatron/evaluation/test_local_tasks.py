"""Local tasks: files that lm_eval reads, deterministic, and fair questions."""

import json
from pathlib import Path

import pytest
import yaml

from megatron.errors import DataError
from megatron.evaluation.local_tasks import write_local_tasks


def _texts(count: int) -> list[str]:
    return [" ".join(f"t{text}w{word}" for word in range(90)) + "\n" for text in range(count)]


def _rows(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_questions_have_one_true_continuation_and_three_of_other_texts(tmp_path: Path) -> None:
    texts = _texts(8)
    names = write_local_tasks(tmp_path, texts, name="held_out")
    assert names == ["held_out_choice", "held_out_rolling", "held_out_generate"]
    rows = _rows(tmp_path / "held_out_choice.jsonl")
    assert len(rows) == 8
    for row, text in zip(rows, texts, strict=True):
        true = row["choices"][row["answer"]]
        assert row["context"] + true in text
        assert len(true.split()) == 15
        assert len({choice.split("w")[0] for choice in row["choices"]}) == 4
    assert len({row["answer"] for row in rows}) > 1


def test_the_next_word_is_the_target_and_rolling_has_whole_texts(tmp_path: Path) -> None:
    texts = _texts(5)
    write_local_tasks(tmp_path, [*texts, "too short"])
    for row, text in zip(_rows(tmp_path / "local_generate.jsonl"), texts, strict=True):
        assert f"{row['context']} {row['word']} " in text
    assert [row["text"] for row in _rows(tmp_path / "local_rolling.jsonl")] == [*texts, "too short"]


def test_files_are_the_same_for_the_same_arguments(tmp_path: Path) -> None:
    contents = []
    for _ in range(2):
        write_local_tasks(tmp_path, _texts(6), seed=7)
        contents.append({path.name: path.read_bytes() for path in tmp_path.iterdir()})
    assert contents[0] == contents[1]
    task = yaml.safe_load(contents[0]["local_choice.yaml"])
    assert task["dataset_kwargs"]["data_files"]["test"] == str(tmp_path / "local_choice.jsonl")


def test_too_few_texts_are_refused_with_the_count(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="3 of 4 texts have 75 words"):
        write_local_tasks(tmp_path, [*_texts(3), "short"])

"""Scores of lm_eval's and of eval.py's files become one table; other files are refused by name."""

import json
from pathlib import Path

import pytest

from megatron.errors import SettingsError
from megatron.export.scores import read_scores, score_table

LM_EVAL = {
    "results": {
        "piqa": {"alias": "piqa", "acc,none": 0.625, "acc_stderr,none": 0.0113, "sample_len": 1838},
        "gsm8k": {"exact_match,strict-match": 0.0341, "exact_match_stderr,strict-match": "N/A"},
    }
}
OURS = {
    "results": [
        {"set": "validation", "loss": 2.5, "perplexity": 12.1825, "tokens": 640, "iteration": 7},
        {"task": "local_choice", "scores": {"acc,none": 0.5, "acc_stderr,none": 0.25}, "iteration": 7},
    ]
}


def test_both_kinds_of_files_in_one_table(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(json.dumps(LM_EVAL))
    (tmp_path / "b.json").write_text(json.dumps(OURS))
    assert score_table(read_scores([tmp_path / "a.json", tmp_path / "b.json"])).splitlines()[2:] == [
        "| piqa | acc | 0.6250 | 0.0113 |",
        "| gsm8k | exact_match (strict-match) | 0.0341 |  |",
        "| validation | loss | 2.5000 |  |",
        "| validation | perplexity | 12.1825 |  |",
        "| local_choice | acc | 0.5000 | 0.2500 |",
    ]


@pytest.mark.parametrize("text", ["no json", "[]", '{"results": {}}', '{"results": [{"loss": 1}]}'])
def test_other_files_are_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "other.json").write_text(text)
    with pytest.raises(SettingsError, match=r"--results .*other\.json"):
        read_scores([tmp_path / "other.json"])

"""The schema for editors takes every shipped settings file, and sees a wrong key and a wrong value."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from megatron.neox_arguments.schema import schema

REPOSITORY = Path(__file__).resolve().parents[3]


@pytest.fixture(scope="module")
def checker() -> Any:
    jsonschema = pytest.importorskip("jsonschema", reason="jsonschema is not installed (requirements for development)")
    return jsonschema.Draft202012Validator(schema())


def test_shipped_files_pass(checker: Any) -> None:
    files = [*(REPOSITORY / "configs").rglob("*.yml")]
    assert len(files) > 20
    for file in files:
        if file.parent.name != "training_free":
            errors = [error.message for error in checker.iter_errors(yaml.safe_load(file.read_text()))]
            assert errors == [], file


@pytest.mark.parametrize(
    ("settings", "fault"),
    [({"num_layer": 3}, "num_layer"), ({"num_layers": "many"}, "many"), ({"attention_dropout": 1.5}, "1.5")],
)
def test_faults_are_seen(checker: Any, settings: dict[str, Any], fault: str) -> None:
    assert any(fault in error.message for error in checker.iter_errors(settings))


def test_older_and_refused_keys_are_explained() -> None:
    keys = schema()["properties"]
    assert "Not available" in keys["sparse_attention"]["description"]
    assert all(entry.get("description") for entry in keys.values())


def test_from_the_command_line() -> None:
    words = [sys.executable, "deepy.py", "schema"]
    done = subprocess.run(words, cwd=REPOSITORY, capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == schema()

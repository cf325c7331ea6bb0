"""Every rule of docs/security.md names tests, and these exist."""

import ast
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "security.md").read_text(encoding="utf-8")


def test_every_rule_names_tests_that_exist() -> None:
    part = PAGE.split("## Rules")[1].split("\n## ")[0]
    rules = re.split(r"^\d+\. ", part, flags=re.M)[1:]
    assert len(rules) >= 10
    for rule in rules:
        named = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", rule)
        assert named and "Shown by" in rule, rule
        for file, name in named:
            tree = ast.parse((ROOT / file).read_text(encoding="utf-8"))
            assert name in {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}, f"{file}::{name}"

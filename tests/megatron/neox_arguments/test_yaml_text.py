"""YAML texts: numbers of YAML 1.2, line marks, duplicates, JSON written as YAML."""

import math

import pytest

from megatron.neox_arguments.problems import Problems
from megatron.neox_arguments.yaml_text import read_value, read_yaml

# 9 to the power of 12 values.
BOMB = "a0: &a0 [x,x,x,x,x,x,x,x,x]\n"
BOMB += "".join(f"a{n}: &a{n} [{','.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 12))


def read(text):
    problems = Problems()
    return read_yaml("a.yml", text, problems), problems


def values(text):
    entries, problems = read(text)
    assert not problems.found, problems.text()
    return {key: entry.value for key, entry in entries.items()}


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ('"\\ud83d\\ude00"', "\U0001f600"),
        ("1e-4", 1e-4),
        ("6e-4", 6e-4),
        ("6.0e-4", 6e-4),
        ("1E5", 1e5),
        ("-1.5e+3", -1500.0),
        (".5", 0.5),
        ("5.", 5.0),
        ("-.inf", -math.inf),
        ("010", 10),
        ("0x1F", 31),
        ("0o17", 15),
        ("143_000", 143000),
        ("-1", -1),
        ("1:30", "1:30"),
        ("2024-01-02", "2024-01-02"),
        ("1e", "1e"),
        ("e4", "e4"),
        ("1.2.3", "1.2.3"),
        ("true", True),
        ("off", False),
        ("~", None),
        ("", None),
        ("'1e-4'", "1e-4"),
        ("969, 30, 1", "969, 30, 1"),
        ("type:transformer|mlp", "type:transformer|mlp"),
        ('"\\n"', "\n"),
        ("$HOME/data", "$HOME/data"),
    ],
)
def test_scalars(text, value):
    result = values(f"key: {text}")["key"]
    assert result == value and type(result) is type(value)
    assert read_value(text) == value


def test_nan_is_read_as_a_number():
    assert math.isnan(values("key: .nan")["key"])


def test_json_with_trailing_commas_and_quoted_hyphenated_keys():
    text = """{
  # comment
  "pipe-parallel-size": 1,
  "launcher": "pdsh",
  "fp16": {"enabled": true, "loss_scale": 0,},
}
"""
    entries, problems = read(text)
    assert not problems.found
    assert {key: entry.value for key, entry in entries.items()} == {
        "pipe_parallel_size": 1,
        "launcher": "pdsh",
        "fp16": {"enabled": True, "loss_scale": 0},
    }
    assert [str(entry.place) for entry in entries.values()] == ["a.yml:3", "a.yml:4", "a.yml:5"]


def test_lines_inside_blocks():
    entries, _ = read("optimizer:\n  type: Adam\n  params:\n    lr: 1e-3\n")
    assert str(entries["optimizer"].places["params.lr"]) == "a.yml:4"


def test_duplicates_are_found_after_hyphens_became_underscores():
    entries, problems = read("num-layers: 4\nseed: 1\nnum_layers: 5\n")
    assert entries["num_layers"].value == 4
    assert problems.text() == "a.yml:3: 'num_layers' is given twice; it was first given at a.yml:1"


def test_duplicates_inside_a_block():
    _, problems = read("fp16:\n  enabled: true\n  enabled: false\n")
    assert problems.text() == "a.yml:3: 'enabled' is given twice in this block, first at a.yml:2"


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("a: [1, 2\nb: 3\n", "a.yml:2: not readable as YAML"),
        ("{\n\t'a': 1}\n", "Use blanks instead of tabs."),
        ("a: *missing\n", "a.yml:1: not readable as YAML"),
        ("- a\n- b\n", 'expected "key: value" lines'),
        ("a: 1\n---\nb: 2\n", "a.yml:2: not readable as YAML"),
        ("a: !!python/object:os.system x\n", "write plain values"),
        ("a: !!binary aGk=\n", "write plain values"),
        ("a: &x [*x]\n", "contains itself"),
        (BOMB, "more than 100,000 values"),
        ("a: " + "[" * 5000, "nested too deeply"),
        ("a: " + "x" * 10_000_001, "are no settings"),
        ('a: "\\ud83d"\n', "write plain values"),
        ("? [a, b]\n: 1\n", "a key must be one word"),
        ("a: \x00\n", "not readable as YAML"),
    ],
)
def test_unreadable_texts_are_placed(text, part):
    _, problems = read(text)
    assert part in problems.text()


@pytest.mark.parametrize("text", ["", "# nothing\n", "\ufeffseed: 1\n", "seed: 1\r\n"])
def test_empty_marked_and_windows_texts_are_fine(text):
    assert values(text) in ({}, {"seed": 1})


def test_an_anchor_used_twice_is_fine():
    assert values("a: &x [1, 2]\nb: *x\n") == {"a": [1, 2], "b": [1, 2]}


def test_override_text_that_is_no_yaml_stays_text():
    assert read_value("[1, 2") == "[1, 2"
    assert read_value("{a: 1}") == {"a": 1}

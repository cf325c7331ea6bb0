"""A settings file that builds on others: whose keys win, where paths lead, and what is refused."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from megatron.errors import SettingsError
from megatron.neox_arguments.load import arguments_from_texts, load_arguments
from megatron.neox_arguments.problems import Problems
from megatron.neox_arguments.settings_file import read_settings_file, settings_text
from megatron.neox_arguments.sources import merge, read_files

MODEL = """
num_layers: 4
hidden_size: 64
num_attention_heads: 4
seq_length: 128
max_position_embeddings: 128
train_micro_batch_size_per_gpu: 2
optimizer: {type: Adam, params: {lr: 1.0e-3}}
"""


def write(folder: Path, **texts: str) -> None:
    for name, text in texts.items():
        path = folder / (name.replace("__", "/") + ".yml")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def read(*files: Path, overrides: tuple[str, ...] = ()) -> tuple[dict[str, object], str]:
    problems = Problems()
    entries = merge(read_files(files, problems), overrides, problems)
    return {key: entry.value for key, entry in entries.items()}, problems.text() if problems.found else ""


def test_own_keys_win_and_paths_count_from_the_file(tmp_path):
    write(tmp_path, models__base="seed: 1\nwarmup: 0.1\n", runs__mine="based_on: ../models/base\nseed: 2\n")
    assert read(tmp_path / "runs" / "mine.yml") == ({"seed": 2, "warmup": 0.1}, "")
    assert read(tmp_path / "runs" / "mine", overrides=("seed=3",))[0]["seed"] == 3


def test_a_chain_is_followed_and_the_nearest_wins(tmp_path):
    write(tmp_path, a="seed: 1\nwarmup: 0.1\nmin_lr: 0.5\n", b="based_on: [a]\nseed: 2\nwarmup: 0.2\n")
    write(tmp_path, c="based-on: [b]\nseed: 3\n")
    assert read(tmp_path / "c.yml") == ({"seed": 3, "warmup": 0.2, "min_lr": 0.5}, "")


def test_an_older_name_changes_the_same_key(tmp_path):
    write(tmp_path, a="separator_token_ids: [1]\n", b="based_on: [a]\nspecial-tokens-id: [2]\n")
    assert read(tmp_path / "b.yml") == ({"separator_token_ids": [2]}, "")


def test_two_bases_may_not_repeat_a_key_unless_the_file_decides(tmp_path):
    write(tmp_path, a="seed: 1\n", b="seed: 2\n", c="based_on: [a, b]\n", d="based_on: [a, b]\nseed: 3\n")
    twice = f"{tmp_path}/b.yml:1: 'seed' is given twice; it was first given at {tmp_path}/a.yml:1"
    assert read(tmp_path / "c.yml")[1].startswith(f"{twice}. To change it: --set seed=...")
    assert read(tmp_path / "d.yml") == ({"seed": 3}, "")


def test_files_on_the_command_line_still_may_not_repeat_a_key(tmp_path):
    write(tmp_path, a="seed: 1\n", b="based_on: [a]\nwarmup: 0.1\n", c="seed: 2\n")
    assert "'seed' is given twice" in read(tmp_path / "b.yml", tmp_path / "c.yml")[1]


def test_a_file_that_two_are_based_on_counts_once(tmp_path):
    write(tmp_path, a="seed: 1\n", b="based_on: [a]\nwarmup: 0.1\n", c="based_on: [a]\nmin_lr: 0.5\n")
    assert read(tmp_path / "b", tmp_path / "c") == ({"seed": 1, "warmup": 0.1, "min_lr": 0.5}, "")
    assert read(tmp_path / "a", tmp_path / "b") == ({"seed": 1, "warmup": 0.1}, "")
    assert read(tmp_path / "b", tmp_path / "a") == ({"seed": 1, "warmup": 0.1}, "")


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("based_on: [modle]", "mine.yml:1: based_on: {folder}/modle.yml: no such file. Did you mean 'model.yml'"),
        ("based_on: 7", "mine.yml:1: based_on: 7 is not a list of files"),
        ("based_on: [7]", "is not a list of files. Write based_on: [models/160m.yml]."),
        ("based_on: [mine]", "mine.yml:1: based_on: {folder}/mine.yml leads back to this file"),
        ("based_on: [round]", "leads back to this file"),
    ],
)
def test_what_cannot_be_followed_is_said_with_its_line(tmp_path, line, says):
    write(tmp_path, model=MODEL, mine=line + "\n", round="based_on: [mine]\n")
    with pytest.raises(SettingsError) as caught:
        load_arguments([tmp_path / "mine.yml"])
    assert says.format(folder=tmp_path) in str(caught.value)


def test_it_is_no_key_of_the_command_line():
    with pytest.raises(SettingsError, match="unknown key 'based_on'"):
        arguments_from_texts([("a.yml", MODEL)], ["based_on=[b.yml]"])


def test_the_files_travel_to_workers_and_checkpoints(tmp_path):
    write(tmp_path, model=MODEL, mine="based_on: [model]\nseparator_token_ids: [1]\nhidden_size: 32\n")
    here = load_arguments([tmp_path / "mine.yml"], ["seed=5"])
    (tmp_path / "settings").write_text(settings_text(here.texts, here.overrides))
    texts, overrides = read_settings_file(tmp_path / "settings")
    there = arguments_from_texts(texts, overrides)
    assert there == here and there.hidden_size == 32 and there.seed == 5
    assert there.source_of("hidden_size") == f"{tmp_path}/mine.yml:3"
    assert there.source_of("num_layers") == f"{tmp_path}/model.yml:2"
    with pytest.raises(SettingsError, match=r"model\.yml is not among the settings files"):
        arguments_from_texts(texts[:1])


KEYS = ["seed", "warmup", "min_lr", "num_layers"]


@given(st.lists(st.dictionaries(st.sampled_from(KEYS), st.integers(0, 9)), min_size=1, max_size=5))
def test_a_chain_is_the_update_of_dictionaries(chain):
    texts = []
    for number, keys in enumerate(chain):
        base = f"based_on: [{number - 1}.yml]\n" if number else ""
        texts.append((f"{number}.yml", base + "".join(f"{key}: {value}\n" for key, value in keys.items())))
    expected: dict[str, int] = {}
    for keys in chain:
        expected.update(keys)
    problems = Problems()
    found = merge(texts, (), problems)
    assert {key: entry.value for key, entry in found.items()} == expected and not problems.found

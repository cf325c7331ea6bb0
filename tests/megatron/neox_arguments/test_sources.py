"""Files, their merging, and overrides."""

import pytest

from megatron.neox_arguments.problems import Problems
from megatron.neox_arguments.sources import merge, read_files


def merged(*texts, overrides=()):
    problems = Problems()
    entries = merge([(f"{name}.yml", text) for name, text in zip("abc", texts, strict=False)], overrides, problems)
    return {key: entry.value for key, entry in entries.items()}, problems.text() if problems.found else ""


def test_files_are_merged():
    assert merged("seed: 1\n", "num-layers: 2\n") == ({"seed": 1, "num_layers": 2}, "")


def test_a_key_in_two_files_names_both_places_whatever_the_spelling():
    _, text = merged("seed: 1\nnum_layers: 4\n", "num-layers: 5\n")
    assert text == (
        "b.yml:1: 'num_layers' is given twice; it was first given at a.yml:2."
        " To change it: --set num_layers=..., or based_on in a file of your own"
    )


def test_the_way_out_is_said_once():
    assert merged("seed: 1\nwarmup: 0.1\n", "seed: 2\nwarmup: 0.2\n")[1].count("To change it") == 1


def test_an_older_name_is_mapped():
    assert merged("special_tokens_id: [1]\n")[0] == {"separator_token_ids": [1]}


def test_older_and_newer_name_together_are_a_duplicate():
    _, text = merged("special-tokens-id: [1]\n", "separator_token_ids: [2]\n")
    assert "a.yml:1" in text and "b.yml:1" in text and "twice" in text
    _, text = merged("separator_token_ids: [2]\nspecial_tokens_id: [1]\n")
    assert "'special_tokens_id' (today called 'separator_token_ids') is given twice" in text


def test_overrides_win_over_all_files_and_the_last_one_wins():
    assert merged("seed: 1\n", overrides=["seed=2", "seed=3"])[0] == {"seed": 3}


def test_overrides_accept_hyphens_and_older_names():
    assert merged("", overrides=["num-layers=2", "original_flag=true"])[0] == {
        "num_layers": 2,
        "USE_ORIGINAL_FULL_ATTEN": True,
    }


def test_overrides_reach_into_blocks():
    values, _ = merged("optimizer: {type: Adam, params: {lr: 1e-3}}\n", overrides=["optimizer.params.lr=1e-4"])
    assert values == {"optimizer": {"type": "Adam", "params": {"lr": 1e-4}}}
    assert merged("", overrides=["fp16.enabled=true"])[0] == {"fp16": {"enabled": True}}


@pytest.mark.parametrize("override", ["seed", "=3", ""])
def test_an_override_without_key_or_value_is_refused(override):
    assert "expected key=value" in merged("", overrides=[override])[1]


def test_an_override_into_a_plain_value_is_refused():
    assert "seed is 1, which has no part called 'x'" in merged("seed: 1\n", overrides=["seed.x.y=2"])[1]


def test_yml_is_appended(tmp_path):
    (tmp_path / "a.yml").write_text("seed: 1\n")
    (tmp_path / "pythia-1.4b.yml").write_text("seed: 1\n")
    (tmp_path / "b.json").write_text("{}")
    names = [tmp_path / "a", tmp_path / "b.json", tmp_path / "pythia-1.4b"]
    problems = Problems()
    texts = read_files(names, problems)
    assert [text for _, text in texts] == ["seed: 1\n", "{}", "seed: 1\n"] and not problems.found


def test_missing_double_and_undecodable_files_are_all_reported(tmp_path):
    (tmp_path / "train.yml").write_text("seed: 1\n")
    (tmp_path / "latin.yml").write_bytes(b"save: caf\xe9\n")
    problems = Problems()
    read_files([tmp_path / "trian", tmp_path / "train", tmp_path / "train.yml", tmp_path / "latin.yml"], problems)
    text = problems.text()
    assert "trian.yml: no such file. Did you mean 'train.yml'" in text
    assert "is given twice on the command line" in text
    assert "byte 9 is not UTF-8" in text


def test_a_missing_folder_is_named(tmp_path):
    problems = Problems()
    read_files([tmp_path / "nowhere" / "a.yml"], problems)
    assert f"no such folder {tmp_path / 'nowhere'}" in problems.text()

"""Command lines of the scripts, and the blob from the launcher."""

import pytest
import yaml

from megatron.errors import SettingsError
from megatron.neox_arguments.cli import arguments_from_command_line, parse_cli
from megatron.neox_arguments.settings_file import settings_text, write_private
from tests.megatron.neox_arguments.conftest import MINIMAL


def test_files_overrides_and_check():
    line = parse_cli(["a.yml", "b", "--set", "seed=1", "--check", "--set=split=8,1,1"])
    assert line.files == ("a.yml", "b") and line.check and line.settings_file is None
    assert line.overrides == ("seed=1", "split=8,1,1")


def test_folder_of_the_files():
    assert parse_cli(["-d", "configs/", "a.yml", "b"]).files == ("configs/a.yml", "configs/b")


def test_short_ways_of_gpt_neox():
    line = parse_cli(["a", "-i", "in.txt", "-o", "out.jsonl", "--iteration", "10", "--eval_tasks", "piqa", "sciq"])
    assert line.overrides == (
        "sample_input_file=in.txt",
        "sample_output_file=out.jsonl",
        "iteration=10",
        'eval_tasks=["piqa", "sciq"]',
    )


@pytest.mark.parametrize(
    ("argv", "part"),
    [
        (["--chekc"], "unknown option '--chekc'. Did you mean '--check'"),
        (["--set"], "--set needs a value"),
        (["--settings", "x", "a.yml"], "do not name a.yml as well"),
    ],
)
def test_wrong_command_lines(argv, part):
    with pytest.raises(SettingsError, match=part.replace(".", r"\.")):
        parse_cli(argv)


def test_workers_get_the_same_settings_as_the_launcher(tmp_path):
    path = tmp_path / "a.yml"
    path.write_text(yaml.safe_dump(MINIMAL))
    here = arguments_from_command_line([str(path), "--set", "seed=5"], world_size=2)
    handed_over = tmp_path / "settings"
    write_private(handed_over, settings_text(here.texts, here.overrides))
    there = arguments_from_command_line(["--settings", str(handed_over)], world_size=2)
    assert there.to_flat_dict() == here.to_flat_dict() and there.derived == here.derived
    changed = arguments_from_command_line(["--settings", str(handed_over), "--set", "seed=6"])
    assert changed.seed == 6

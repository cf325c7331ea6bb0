"""Command lines of train.py, eval.py and generate.py: settings files with overrides, or one file from the launcher."""

import json
from collections.abc import Sequence
from dataclasses import dataclass

from megatron.errors import SettingsError
from megatron.neox_arguments.arguments import NeoXArgs
from megatron.neox_arguments.load import arguments_from_texts, load_arguments
from megatron.neox_arguments.settings_file import read_settings_file
from sepllm.errors import did_you_mean

# GPT-NeoX's own command-line overrides; each is a shorter way to write --set.
_SHORTCUTS = {
    "-i": "sample_input_file",
    "-o": "sample_output_file",
    "--sample_input_file": "sample_input_file",
    "--sample_output_file": "sample_output_file",
    "--eval_tasks": "eval_tasks",
    "--eval_results_prefix": "eval_results_prefix",
    "--iteration": "iteration",
    "--hostfile": "hostfile",
    "--wandb_group": "wandb_group",
    "--wandb_team": "wandb_team",
    "--wandb_run_name": "wandb_run_name",
}
_FLAGS = ["--set", "--settings", "--check", "-d", "--conf_dir", *_SHORTCUTS]


@dataclass(frozen=True)
class CommandLine:
    """What was asked for: files and overrides, or a file of the launcher that holds both."""

    files: tuple[str, ...]
    overrides: tuple[str, ...]
    settings_file: str | None
    check: bool


def parse_cli(argv: Sequence[str]) -> CommandLine:
    """`a.yml b.yml [-d DIR] [--set key=value ...] [--check]` or `--settings FILE`. Raises SettingsError."""
    files: list[str] = []
    overrides: list[str] = []
    folder, settings_file, check = "", None, False
    words = list(argv)
    while words:
        flag, equals, attached = words.pop(0).partition("=")
        if not flag.startswith("-"):
            files.append(flag + equals + attached)
        elif flag == "--check":
            check = True
        elif flag == "--eval_tasks":
            tasks = []
            while words and not words[0].startswith("-"):
                tasks.append(words.pop(0))
            overrides.append(f"eval_tasks={json.dumps(([attached] if equals else []) + tasks)}")
        elif flag in _FLAGS:
            value = attached if equals else _next(flag, words)
            if flag == "--set":
                overrides.append(value)
            elif flag == "--settings":
                settings_file = value
            elif flag in ("-d", "--conf_dir"):
                folder = value
            else:
                overrides.append(f"{_SHORTCUTS[flag]}={value}")
        else:
            known = did_you_mean(flag, _FLAGS) or f"Known: {', '.join(_FLAGS)}."
            raise SettingsError(f"unknown option {flag!r}. {known} Any key can be given as --set key=value.")
    if folder:
        files = [f"{folder.rstrip('/')}/{file}" for file in files]
    if settings_file and files:
        raise SettingsError(f"--settings already holds the files; do not name {', '.join(files)} as well.")
    return CommandLine(tuple(files), tuple(overrides), settings_file, check)


def arguments_from_command_line(argv: Sequence[str], world_size: int | None = None) -> NeoXArgs:
    """Checked settings from a roof script's command line. world_size: the real number of processes, if they run."""
    line = parse_cli(argv)
    if line.settings_file is not None:
        texts, overrides = read_settings_file(line.settings_file)
        return arguments_from_texts(texts, [*overrides, *line.overrides], world_size)
    return load_arguments(line.files, line.overrides, world_size)


def _next(flag: str, words: list[str]) -> str:
    if not words:
        raise SettingsError(f"{flag} needs a value.")
    return words.pop(0)

"""Command lines of train.py, eval.py and generate.py: settings files with overrides, or one blob from the launcher."""

import base64
import binascii
import json
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from megatron.errors import SettingsError
from megatron.neox_arguments.arguments import NeoXArgs
from megatron.neox_arguments.load import arguments_from_texts, load_arguments
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
}
_FLAGS = ["--set", "--settings", "--check", "-d", "--conf_dir", *_SHORTCUTS]


@dataclass(frozen=True)
class CommandLine:
    """What was asked for: files and overrides, or a blob that holds both."""

    files: tuple[str, ...]
    overrides: tuple[str, ...]
    blob: str | None
    check: bool


def parse_cli(argv: Sequence[str]) -> CommandLine:
    """`a.yml b.yml [-d DIR] [--set key=value ...] [--check]` or `--settings BLOB`. Raises SettingsError."""
    files: list[str] = []
    overrides: list[str] = []
    folder, blob, check = "", None, False
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
                blob = value
            elif flag in ("-d", "--conf_dir"):
                folder = value
            else:
                overrides.append(f"{_SHORTCUTS[flag]}={value}")
        else:
            known = did_you_mean(flag, _FLAGS) or f"Known: {', '.join(_FLAGS)}."
            raise SettingsError(f"unknown option {flag!r}. {known} Any key can be given as --set key=value.")
    if folder:
        files = [f"{folder.rstrip('/')}/{file}" for file in files]
    if blob and files:
        raise SettingsError(f"--settings already holds the files; do not name {', '.join(files)} as well.")
    return CommandLine(tuple(files), tuple(overrides), blob, check)


def arguments_from_command_line(argv: Sequence[str], world_size: int | None = None) -> NeoXArgs:
    """Checked settings from a roof script's command line. world_size: the real number of processes, if they run."""
    line = parse_cli(argv)
    if line.blob is not None:
        texts, overrides = decode_blob(line.blob)
        return arguments_from_texts(texts, [*overrides, *line.overrides], world_size)
    return load_arguments(line.files, line.overrides, world_size)


def encode_blob(texts: Iterable[tuple[str, str]], overrides: Iterable[str]) -> str:
    """Settings as one word of ASCII for a worker's command line: base64 of zlib of JSON."""
    packed = json.dumps({"files": [list(pair) for pair in texts], "overrides": list(overrides)})
    return base64.urlsafe_b64encode(zlib.compress(packed.encode(), 9)).decode()


def decode_blob(blob: str) -> tuple[list[tuple[str, str]], list[str]]:
    """The inverse of `encode_blob`. Raises SettingsError for anything else."""
    try:
        content = json.loads(zlib.decompress(base64.urlsafe_b64decode(blob)))
        return [(str(name), str(text)) for name, text in content["files"]], [str(item) for item in content["overrides"]]
    except (binascii.Error, zlib.error, ValueError, KeyError, TypeError) as error:
        raise SettingsError(
            f"--settings holds {blob[:20]!r}..., which is no settings blob ({error}). It is written by deepy.py;"
            " by hand, name the .yml files instead."
        ) from error


def _next(flag: str, words: list[str]) -> str:
    if not words:
        raise SettingsError(f"{flag} needs a value.")
    return words.pop(0)

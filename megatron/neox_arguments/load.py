"""From settings files to NeoXArgs: read, merge, check everything, derive. All errors are reported together."""

import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from megatron.neox_arguments.arguments import NeoXArgs
from megatron.neox_arguments.derive import derive
from megatron.neox_arguments.problems import Place, Problems
from megatron.neox_arguments.refused import REFUSED
from megatron.neox_arguments.secrets import secrets_in
from megatron.neox_arguments.sources import merge, read_files
from megatron.neox_arguments.type_errors import type_complaints
from megatron.neox_arguments.validate import check_rules
from megatron.neox_arguments.words import shown
from megatron.neox_arguments.yaml_text import Entry
from sepllm.errors import did_you_mean


def load_arguments(
    files: Sequence[str | Path], overrides: Iterable[str] = (), world_size: int | None = None
) -> NeoXArgs:
    """Settings from YAML files and `key=value` overrides.

    world_size: the real number of processes; None plans with hostfile, num_gpus or the batch sizes.
    Raises SettingsError that lists every problem with its file and line.
    """
    problems = Problems()
    if not files:
        problems.add("no settings file given. Example: python deepy.py train.py configs/local-cpu.yml")
    texts, overrides = read_files(files, problems), tuple(overrides)
    _refuse_secrets(texts, overrides)
    return _checked(texts, overrides, world_size, problems)


def arguments_from_texts(
    texts: Sequence[tuple[str, str]], overrides: Iterable[str] = (), world_size: int | None = None
) -> NeoXArgs:
    """The same from (name, text) pairs, as they travel to workers and lie in checkpoints."""
    return _checked([(name, text) for name, text in texts], tuple(overrides), world_size, Problems())


def _refuse_secrets(texts: Sequence[tuple[str, str]], overrides: Iterable[str]) -> None:
    """Before any other check: other messages show what they found."""
    problems = Problems()
    places = [(Place(name, line), what) for name, text in texts for line, what in secrets_in(text)]
    places += [(Place(f"--set {text.partition('=')[0]}"), what) for text in overrides for _, what in secrets_in(text)]
    for place, what in places:
        problems.add(
            f"this looks like {what}. Settings are copied into checkpoints, logs and trackers, so keys do not belong "
            "there. Leave it in the environment; forward_environment: [NAME] takes it to other hosts.",
            place,
        )
    problems.stop_if_any()


def _checked(
    texts: list[tuple[str, str]], overrides: tuple[str, ...], world_size: int | None, problems: Problems
) -> NeoXArgs:
    all_readable = not problems.found
    entries = merge(texts, overrides, problems)
    unreadable = not all_readable or any("not readable as YAML" in message for _, message in problems.found)
    values, null_keys = _known_values(entries, problems)
    args, broken = _typed(values, entries, problems, report_missing=not unreadable)
    if args is not None and not unreadable:
        for key, message in check_rules(args, broken | null_keys, world_size):
            problems.add(
                message if message.startswith(f"{key} ") else f"{key}: {message}",
                _place_of_complaint(entries, key, message),
            )
    problems.stop_if_any()
    assert args is not None
    args._derived = derive(args, world_size)
    args._places = {key: entry.place for key, entry in entries.items() if key in values}
    args._texts = tuple((name, text) for name, text in texts)
    args._overrides = overrides
    return args


def _known_values(entries: dict[str, Entry], problems: Problems) -> tuple[dict[str, Any], set[str]]:
    """Entries that are fields of NeoXArgs and say something; and the keys whose null was complained about."""
    values: dict[str, Any] = {}
    null_keys: set[str] = set()
    for key, entry in entries.items():
        if key in REFUSED:
            refusal = REFUSED[key]
            if not refusal.is_neutral(entry.value):
                problems.add(
                    f"{key}: {shown(entry.value)} is refused because {refusal.reason}. {refusal.instead}", entry.place
                )
        elif key not in NeoXArgs.model_fields:
            hint = _nearest(key) or "docs/arguments.md lists every key."
            problems.add(f"unknown key {key!r}. {hint}", entry.place)
        elif entry.value is not None:
            values[key] = entry.value
        elif not NeoXArgs.model_fields[key].is_required() and NeoXArgs.model_fields[key].default is not None:
            null_keys.add(key)
            default = NeoXArgs.model_fields[key].get_default()
            problems.add(f"{key}: null says nothing here. Remove the line for the default ({default!r}).", entry.place)
    return values, null_keys


def _typed(
    values: dict[str, Any], entries: dict[str, Entry], problems: Problems, report_missing: bool
) -> tuple[NeoXArgs | None, set[str]]:
    """The settings with their types checked, and the keys that failed (they hold a stand-in)."""
    try:
        return NeoXArgs.model_validate(values), set()
    except ValidationError as error:
        complaints = type_complaints(error, values)
    broken: set[str] = set()
    for complaint in complaints:
        broken.add(complaint.key)
        if complaint.missing and not report_missing:
            continue
        problems.add(complaint.message, _place(entries, complaint.key, complaint.inner))
    rest = {key: value for key, value in values.items() if key not in broken}
    required = {key: 1 for key, field in NeoXArgs.model_fields.items() if field.is_required()}
    return NeoXArgs.model_validate({**required, **rest}), broken


def _nearest(key: str) -> str:
    """The known keys nearest to a misspelt one; a difference in case counts as none."""
    by_lower_case = {known.lower(): known for known in NeoXArgs.model_fields}
    if key.lower() in by_lower_case:
        return f"Did you mean {by_lower_case[key.lower()]!r}? Keys are case-sensitive."
    return did_you_mean(key, NeoXArgs.model_fields)


def _place_of_complaint(entries: dict[str, Entry], key: str, message: str) -> Place:
    """Where the key was given; for a key left at its default, where the first key that the message names was given."""
    named = [key, *re.findall(r"\w+", message)]
    return next((entries[word].place for word in named if word in entries), Place(""))


def _place(entries: dict[str, Entry], key: str, inner: str = "") -> Place:
    if key not in entries:
        return Place("")
    entry = entries[key]
    while inner and inner not in entry.places:
        inner = inner.rpartition(".")[0]
    return entry.places.get(inner, entry.place)

"""The settings of runs beside each other: keys that differ, as given in their files and overrides."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from megatron.neox_arguments.problems import Problems
from megatron.neox_arguments.sources import merge
from megatron.report.run_log import RunLog


@dataclass(frozen=True)
class Difference:
    """One key (dots lead into a block). given: one text per run, "" where the run left the default."""

    key: str
    given: tuple[str, ...]


def differences(runs: Sequence[RunLog]) -> list[Difference]:
    """Keys that are not given alike in all runs, in alphabetical order."""
    flat = [settings_of(run) for run in runs]
    keys = sorted({key for one in flat for key in one})
    rows = [Difference(key, tuple(one.get(key, "") for one in flat)) for key in keys]
    return [row for row in rows if len(set(row.given)) > 1]


def settings_of(run: RunLog) -> dict[str, str]:
    """key -> value as JSON, from the files and overrides that the run's log keeps."""
    texts = [(str(name), str(text)) for name, text in run.settings.get("texts", [])]
    entries = merge(texts, [str(line) for line in run.settings.get("overrides", [])], Problems())
    flat: dict[str, str] = {}
    for key, entry in entries.items():
        _flatten(flat, key, entry.value)
    return flat


def _flatten(flat: dict[str, str], key: str, value: Any) -> None:
    if isinstance(value, dict) and value:
        for inner, item in value.items():
            _flatten(flat, f"{key}.{inner}", item)
    else:
        flat[key] = json.dumps(value, ensure_ascii=False, default=str)

"""Settings on their way from deepy.py to the ranks: a file that only its owner may read, never words of a command line.

What stands on a command line is shown to every user of the machine by `ps`.
"""

import json
import os
from collections.abc import Iterable
from pathlib import Path

from megatron.errors import SettingsError


def settings_text(texts: Iterable[tuple[str, str]], overrides: Iterable[str]) -> str:
    """The settings files (name, text) and `key=value` overrides as JSON."""
    return json.dumps({"files": [list(pair) for pair in texts], "overrides": list(overrides)})


def write_private(path: Path, text: str) -> None:
    """A new file of mode 0600; FileExistsError where there is one already, a link included."""
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
        file.write(text)


def read_settings_file(path: str | Path) -> tuple[list[tuple[str, str]], list[str]]:
    """The texts and overrides of `settings_text`. Raises SettingsError for anything else, showing nothing of it."""
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8"))
        return [(str(name), str(text)) for name, text in content["files"]], [str(item) for item in content["overrides"]]
    except (OSError, ValueError, KeyError, TypeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not of that form"
        raise SettingsError(
            f"--settings names {str(path)!r}, expected a file that deepy.py has written for its ranks: {reason}."
            " By hand, name the .yml files instead."
        ) from None

"""Live or plain: what the settings, the terminal and the environment say together."""

import importlib.util
import os
from collections.abc import Mapping
from typing import TextIO

from megatron.errors import SettingsError


def wants_live(display: str, output: TextIO, environment: Mapping[str, str] = os.environ) -> bool:
    """Whether to show a live display. display: the setting: "auto", "live" or "plain".

    "auto" is live on a terminal that can move its cursor, where rich is installed. SettingsError when "live" is
    insisted on and cannot be. NO_COLOR leaves it live, without colours.
    """
    if display == "plain":
        return False
    dumb = environment.get("TERM", "") in ("dumb", "unknown")
    has_rich = importlib.util.find_spec("rich") is not None
    if display == "auto":
        return output.isatty() and not dumb and has_rich
    if dumb:
        raise SettingsError(f"display: live needs a terminal that moves its cursor; TERM is {environment['TERM']!r}.")
    if not has_rich:
        raise SettingsError(
            "display: live needs the package rich: `pip install rich`, or set display to auto or plain."
        )
    return True

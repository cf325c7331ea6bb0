"""Import a tracker's package where the run starts, with clear words when it is not there."""

import importlib
from typing import Any

from megatron.errors import SettingsError


def tracker_package(module: str, key: str, package: str) -> Any:
    """The module. SettingsError names the key that asked for it and how to install it."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise SettingsError(
            f"{key} is set, but the package {package!r} cannot be imported ({error}). "
            f"Install it with `pip install {package}`, or remove {key}."
        ) from None

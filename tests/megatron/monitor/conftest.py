"""Every test here finds the project's logger as Python made it, so that caplog hears it."""

import logging
from collections.abc import Iterator

import pytest

from megatron.monitor.logger import ROOT


@pytest.fixture(autouse=True)
def untouched_logger() -> Iterator[None]:
    _reset()
    yield
    _reset()


def _reset() -> None:
    root = logging.getLogger(ROOT)
    for handler in list(root.handlers):
        root.removeHandler(handler)
        handler.close()
    root.propagate = True

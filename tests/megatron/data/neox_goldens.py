"""What GPT-NeoX's own code computed from small data sets, and both ways to compute it here."""

import json
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from megatron.data import kernels
from megatron.data.indexed_dataset import IndexedDataset
from tests.helpers.shared import shared_folder


def folder() -> Path:
    return shared_folder("reference", "goldens_data")


@cache
def expected() -> dict[str, Any]:
    return json.loads((folder() / "expect.json").read_text())


def arrays(case: str) -> dict[str, np.ndarray]:
    """Arrays of a case ("cfg00/train", "pack0"), by name."""
    with np.load(folder() / "index_maps.npz") as found:
        return {name.removeprefix(f"{case}/"): found[name] for name in found.files if name.startswith(f"{case}/")}


def dataset(prefix: str) -> IndexedDataset:
    kind = "labels" if prefix.startswith(("qa", "chat")) else "idxmap"
    return IndexedDataset(folder() / kind / prefix)


@pytest.fixture(params=["C++", "NumPy"])
def helper(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Runs a test with the compiled helper and without it."""
    if request.param == "NumPy":
        monkeypatch.setattr(kernels, "helper", lambda: None)
    elif kernels.helper() is None:
        pytest.skip(kernels.NO_HELPER)
    return request.param

"""`score`: what a fault test found, kept for the table of docs/reliability.md when `scorecard.py` runs the tests."""

import json
import os
import uuid
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from tests.faults.scorecard import RESULTS_VARIABLE


@pytest.fixture
def score(request: pytest.FixtureRequest) -> Callable[..., None]:
    """score(row, held, tried, naive, seconds): fail unless held == tried.

    naive: how the same fault bites a naive version. seconds: what was measured, shown beside the row.
    """

    def record(row: str, held: int, tried: int, naive: str, seconds: Sequence[float] = ()) -> None:
        folder = os.environ.get(RESULTS_VARIABLE)
        if folder:
            result = {"row": row, "held": held, "tried": tried, "naive": naive, "test": request.node.nodeid}
            result |= {"seconds": [round(one, 1) for one in seconds]} if seconds else {}
            Path(folder, f"{row}-{uuid.uuid4().hex}.json").write_text(json.dumps(result), encoding="utf-8")
        assert held == tried, f"{row}: {held} of {tried}"

    return record

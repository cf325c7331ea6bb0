"""What the tests of this folder share: they skip, with a reason, where no hosts can be made."""

from pathlib import Path

import pytest

from tests.faults.conftest import score
from tests.helpers.tiny_run import write_tiny_data
from tests.multinode.hosts import what_is_missing

__all__ = ["score"]  # a fixture of tests/faults

FOLDER = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    ours = [item for item in items if FOLDER in item.path.parents]
    missing = what_is_missing() if ours else None
    for item in ours:
        if missing:
            item.add_marker(pytest.mark.skip(reason=f"several hosts on one machine: {missing}"))


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_data(tmp_path_factory.mktemp("data"))

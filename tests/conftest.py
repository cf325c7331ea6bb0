"""Settings of every test: few threads, no network, the `gpu` marker, and how tests share the cores.

The tests of a file that starts several processes stay on one worker, which makes their fixtures and the process they
are forked from once.
"""

import os
import signal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_DATASETS_OFFLINE", "1")

# The same examples every time, and no judgement of the machine's speed. `make test-all` searches for new examples.
UNJUDGED = [HealthCheck.too_slow, HealthCheck.function_scoped_fixture]
settings.register_profile("steady", deadline=None, suppress_health_check=UNJUDGED, derandomize=True)
settings.register_profile("search", deadline=None, suppress_health_check=UNJUDGED)
settings.load_profile("steady")

# Under nohup or in the background of a script the tests inherit signals that are ignored, and would pass that on to
# every process they start: a handler of our own is not inherited.
for name in ("SIGINT", "SIGHUP", "SIGTERM", "SIGUSR1"):
    if signal.getsignal(signal.Signals[name]) == signal.SIG_IGN:
        signal.signal(signal.Signals[name], lambda *_: None)

REPOSITORY = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def repository() -> Path:
    """The root folder of the repository."""
    return REPOSITORY


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    if config.getoption("dist") != "loadgroup":
        return None
    from tests.helpers.sharing import SharedFiles

    return SharedFiles(config, log)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    gpu_missing: pytest.MarkDecorator | None = None
    for item in items:
        if item.get_closest_marker("gpu"):
            gpu_missing = gpu_missing or _gpu_marker()
            item.add_marker(gpu_missing)


def _gpu_marker() -> pytest.MarkDecorator:
    import torch

    return pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device; this machine has none")

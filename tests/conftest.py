"""Settings of every test: few threads, no network, the `gpu` marker, and how tests share the cores.

Tests that start several processes run one after another on one worker (or two, on eight cores and more),
beside the single-process tests of the others, so that no machine is asked for more than it has.
"""

import os
import signal
import zlib
from pathlib import Path

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
PARALLEL_LANES = max(1, (os.cpu_count() or 1) // 4)


@pytest.fixture(scope="session")
def repository() -> Path:
    """The root folder of the repository."""
    return REPOSITORY


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    gpu_missing: pytest.MarkDecorator | None = None
    for item in items:
        if item.get_closest_marker("multiprocess") and not item.get_closest_marker("xdist_group"):
            lane = zlib.crc32(str(item.path).encode()) % PARALLEL_LANES
            item.add_marker(pytest.mark.xdist_group(f"processes-{lane}"))
        if item.get_closest_marker("gpu"):
            gpu_missing = gpu_missing or _gpu_marker()
            item.add_marker(gpu_missing)


def _gpu_marker() -> pytest.MarkDecorator:
    import torch

    return pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device; this machine has none")

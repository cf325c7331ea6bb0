"""How the tests share the workers of xdist, and what their processes inherit."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

TESTS = """
import os, time
from pathlib import Path
import pytest

MARKS

@pytest.mark.parametrize("number", range(12))
def test_one(number):
    here = Path(__name__)
    here.mkdir(exist_ok=True)
    (here / str(os.getpid())).touch()
    if __name__ == "test_alone" and number == 0:  # the other worker has all the time it needs to take some
        end = time.monotonic() + 120
        while len(list(here.iterdir())) < 2 and time.monotonic() < end:
            time.sleep(0.01)
"""


def pytest_of(folder: Path, *words: str) -> None:
    (folder / "conftest.py").write_text("from tests.conftest import pytest_xdist_make_scheduler\n")
    (folder / "pytest.ini").write_text("[pytest]\nmarkers = multiprocess: several processes\n")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *words]
    environment = {key: value for key, value in os.environ.items() if not key.startswith("PYTEST")}
    root = str(Path(__file__).resolve().parents[1])
    done = subprocess.run(
        command, cwd=folder, env=environment | {"PYTHONPATH": root}, capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.slow
def test_what_belongs_together_stays_on_one_worker(tmp_path: Path) -> None:
    pytest.importorskip("xdist")
    group = 'pytestmark = pytest.mark.xdist_group("some")'
    for file, marks in {
        "alone": "",
        "several": "pytestmark = pytest.mark.multiprocess",
        "a": group,
        "b": group,
    }.items():
        (tmp_path / f"test_{file}.py").write_text(TESTS.replace("MARKS", marks))
    pytest_of(tmp_path, "-n", "2", "--dist", "loadgroup")
    workers = {
        file: {path.name for path in (tmp_path / f"test_{file}").iterdir()} for file in ("alone", "several", "a", "b")
    }
    assert len(workers["alone"]) == 2, "single tests are shared out"
    assert len(workers["several"]) == len(workers["a"] | workers["b"]) == 1


def test_no_signal_is_ignored_in_a_process_that_a_test_starts() -> None:
    program = "import signal as s; print([s.getsignal(n) == s.SIG_IGN for n in (s.SIGHUP, s.SIGINT, s.SIGTERM)])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "[False, False, False]\n"
    assert signal.getsignal(signal.SIGHUP) != signal.SIG_IGN

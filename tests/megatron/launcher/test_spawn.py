"""Real processes, no torch: what happens when ranks end, fail, die, hang, or are told to stop."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from megatron.launcher.exit_codes import run_exit_code
from megatron.launcher.spawn import Outcome, Patience, Rank, run_ranks

pytestmark = pytest.mark.multiprocess

QUICK = Patience(after_failure=0.3, for_stacks=0.2)
WAIT_FOR_EVER = "import time; time.sleep(600)"
SOON = 90.0  # a busy machine takes its time; what must not be waited for takes 300 s and more

# A rank as the trainer writes it: says that it is ready, stops at the next step when asked, reports 75. The second one
# takes longer to save than ranks get after a failure.
TRAINER = """
import os, signal, sys, time
stop = []
for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1):
    signal.signal(number, lambda *_: stop.append(1))
os.write(1, b"ready\\n")
while not stop:
    time.sleep(0.01)
time.sleep(0.1 + 0.5 * int(os.environ["RANK"]))
while os.path.exists("hold"):
    time.sleep(0.01)
open(f"saved-{os.environ['RANK']}", "w").close()
sys.exit(75)
"""

# The launcher as a process of its own, to be signalled: argv is one program text per rank. Signals that the tests were
# started without (nohup, a background job) are switched on again: the launcher leaves ignored ones ignored.
LAUNCHER = f"""
import os, signal, sys
for number in (signal.SIGINT, signal.SIGHUP, signal.SIGTERM, signal.SIGUSR1):
    signal.signal(number, signal.SIG_DFL)
from megatron.launcher.exit_codes import run_exit_code
from megatron.launcher.spawn import Patience, Rank, run_ranks
ranks = [Rank(n, [sys.executable, "-c", text], {{**os.environ, "RANK": str(n)}}) for n, text in enumerate(sys.argv[1:])]
outcome = run_ranks(ranks, patience={QUICK!r}, say=lambda line: print("launcher:", line, flush=True))
sys.exit(run_exit_code(outcome.exits))
"""


def run(*programs: str, patience: Patience = QUICK) -> Outcome:
    ranks = [Rank(n, [sys.executable, "-c", text], {**os.environ, "RANK": str(n)}) for n, text in enumerate(programs)]
    return run_ranks(ranks, patience=patience)


@pytest.fixture
def launcher(tmp_path: Path) -> Iterator:
    """Starts a launcher in tmp_path; whatever is left at the end is killed."""
    started: list[tuple[subprocess.Popen[str], threading.Timer]] = []

    def start(*programs: str) -> "subprocess.Popen[str]":
        root = Path(__file__).resolve().parents[3]
        process = subprocess.Popen(
            [sys.executable, "-c", LAUNCHER, *programs],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(root)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        # A test that waits for a line in vain gets the end of the output instead.
        timer = threading.Timer(300, process.kill)
        timer.start()
        started.append((process, timer))
        return process

    yield start
    for process, timer in started:
        timer.cancel()
        if process.poll() is None:
            process.kill()
        process.communicate()


def test_all_ranks_finish() -> None:
    outcome = run("pass", "pass", "pass")
    assert run_exit_code(outcome.exits) == 0
    assert sorted(one.rank for one in outcome.exits) == [0, 1, 2]


def test_environment_and_output_pass_through_unchanged(capfd: pytest.CaptureFixture[str]) -> None:
    text = "import os, sys; print('line of', os.environ['RANK']); print('äöü $(x)', file=sys.stderr)"
    run(text, "pass")
    captured = capfd.readouterr()
    assert captured.out == "line of 0\n"
    assert captured.err == "äöü $(x)\n"


def test_only_rank_0_reads_standard_input(launcher) -> None:
    late = "import sys, time; time.sleep(0.3); print(sys.stdin.read())"
    early = "import sys; sys.exit(3 if sys.stdin.read() else 0)"
    process = launcher(late, early)
    output, _ = process.communicate("a prompt", timeout=600)
    assert process.returncode == 0 and "a prompt" in output


def test_a_failing_rank_ends_the_others_and_names_the_run() -> None:
    start = time.monotonic()
    outcome = run(WAIT_FOR_EVER, "import sys; sys.exit(3)")
    assert time.monotonic() - start < SOON
    assert run_exit_code(outcome.exits) == 3
    left = {one.rank: one for one in outcome.exits}[0]
    assert left.ended_by_us and left.code < 0


def test_ranks_that_follow_a_failure_by_themselves_are_left_to_do_so() -> None:
    follow = "import time, sys; time.sleep(0.4); sys.exit(6)"
    outcome = run(follow, "import sys; sys.exit(1)", patience=Patience(after_failure=SOON, after_lost_peer=SOON))
    assert {one.rank: (one.code, one.ended_by_us) for one in outcome.exits} == {0: (6, False), 1: (1, False)}


def test_a_rank_killed_by_sigkill_is_a_lost_peer() -> None:
    outcome = run(WAIT_FOR_EVER, "import os; os.kill(os.getpid(), 9)")
    first = outcome.exits[0]
    assert (first.rank, first.code, first.ended_by_us) == (1, -signal.SIGKILL, False)
    assert run_exit_code(outcome.exits) == 6


def test_a_hanging_rank_prints_its_stacks_before_it_is_killed(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    hangs = str(tmp_path / "hangs")
    hang = f"""
import faulthandler, signal, time
faulthandler.register(signal.SIGUSR2)
def waits_in_a_collective():
    open({hangs!r}, "w").close()
    time.sleep(600)
waits_in_a_collective()
"""
    fail = f"import os, sys, time\nwhile not os.path.exists({hangs!r}):\n    time.sleep(0.01)\nsys.exit(5)"
    run(hang, fail, patience=Patience(after_failure=0.3, for_stacks=3.0))
    assert "waits_in_a_collective" in capfd.readouterr().err


def test_helper_processes_of_a_rank_go_with_it(tmp_path: Path) -> None:
    note = tmp_path / "helper"
    text = f"""
import subprocess, sys
helper = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
open({str(note)!r}, "w").write(str(helper.pid))
sys.exit(4)
"""
    assert run_exit_code(run(text).exits) == 4
    assert_gone(int(note.read_text()))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGHUP])
def test_a_stop_is_passed_on_and_75_honoured(launcher, tmp_path: Path, number: signal.Signals) -> None:
    process = launcher(TRAINER, TRAINER)
    wait_for_lines(process, "ready", 2)
    process.send_signal(number)
    output, _ = process.communicate(timeout=600)
    assert process.returncode == 75, output
    assert sorted(path.name for path in tmp_path.glob("saved-*")) == ["saved-0", "saved-1"]


def test_two_stops_in_a_row_still_save(launcher, tmp_path: Path) -> None:
    process = launcher(TRAINER, TRAINER)
    hold = tmp_path / "hold"
    hold.touch()
    wait_for_lines(process, "ready", 2)
    process.send_signal(signal.SIGINT)
    wait_for_lines(process, "SIGINT passed on", 1)
    process.send_signal(signal.SIGINT)
    wait_for_lines(process, "third Ctrl-C", 1)
    hold.unlink()
    output, _ = process.communicate(timeout=600)
    assert process.returncode == 75, output


def test_three_interrupts_end_ranks_that_do_not_listen(launcher) -> None:
    deaf = "import os, signal, time; signal.signal(2, signal.SIG_IGN); os.write(1, b'ready\\n'); time.sleep(600)"
    process = launcher(deaf)
    wait_for_lines(process, "ready", 1)
    start = time.monotonic()
    for answer in ("SIGINT passed on", "third Ctrl-C", "interrupted three times"):
        process.send_signal(signal.SIGINT)
        wait_for_lines(process, answer, 1)
    process.communicate(timeout=600)
    assert process.returncode == 6
    assert time.monotonic() - start < SOON  # the 300 s that ranks get after a stop are not waited for


def test_a_rank_without_a_handler_gives_the_shells_code(launcher) -> None:
    process = launcher("import os, time; os.write(1, b'ready\\n'); time.sleep(600)")
    wait_for_lines(process, "ready", 1)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=600)
    assert process.returncode == 128 + signal.SIGTERM


def test_no_orphan_when_the_launcher_is_killed(launcher, tmp_path: Path) -> None:
    text = """
import os, subprocess, sys, time
helper = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
open(f"pids-{os.environ['RANK']}.tmp", "w").write(f"{os.getpid()} {helper.pid}")
os.rename(f"pids-{os.environ['RANK']}.tmp", f"pids-{os.environ['RANK']}")
time.sleep(600)
"""
    process = launcher(text, text)
    notes = [tmp_path / "pids-0", tmp_path / "pids-1"]
    wait_until(lambda: all(note.exists() for note in notes))
    process.kill()
    process.wait(timeout=600)
    for note in notes:
        for pid in note.read_text().split():
            assert_gone(int(pid))


def wait_for_lines(process: "subprocess.Popen[str]", text: str, count: int) -> None:
    """Read the launcher's output until `count` lines with this text have come."""
    assert process.stdout is not None
    while count:
        line = process.stdout.readline()
        assert line, f"the launcher ended before it said {text!r}"
        count -= text in line


def wait_until(true_at_last, seconds: float = SOON) -> None:
    end = time.monotonic() + seconds
    while not true_at_last():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.02)


def assert_gone(pid: int) -> None:
    """The process is dead within a moment; a zombie that waits for its parent counts as dead."""

    def gone() -> bool:
        try:
            return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
        except OSError:
            try:
                os.kill(pid, 0)
            except ProcessLookupError:
                return True
            return False

    wait_until(gone, seconds=5)

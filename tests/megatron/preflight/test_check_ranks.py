"""What the launcher's end means: programs in its place that say and do what it would."""

import sys
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import pytest

from megatron.launcher.command_line import DeepyCommand
from megatron.neox_arguments.load import load_arguments
from megatron.preflight import check_ranks
from megatron.preflight.on_ranks import MARK
from megatron.preflight.result import Result
from megatron.preflight.site import Site
from megatron.preflight.smaller import Trial
from megatron.training import reporter

MEETING = {"backend": "nccl", "ranks": 4, "hosts": ["a", "a", "b", "b"], "bytes": 1 << 22, "seconds": 0.002}
STEP = {"loss": 5.5, "seconds": 0.25, "start_seconds": 1.5, "memory": 3 << 30}

ALL = Trial((), "all of it")

Started = Callable[..., list[Result]]


@pytest.fixture
def started(run_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Started:
    """The results when the launcher is this program."""
    site = Site.of(DeepyCommand("train.py", ("tiny.yml",)))

    def run(program: str, seconds: float = 120.0, trial: Trial | str = ALL) -> list[Result]:
        monkeypatch.setattr(check_ranks, "_command", lambda *_: [sys.executable, "-c", program])
        return list(check_ranks.rank_checks(site, trial, seconds))

    return run


def _says(**found: object) -> str:
    return f"import json, sys, time; print('node1: ' + {MARK!r} + json.dumps({found!r}), flush=True)\n"


def test_both_found(started: Started) -> None:
    meeting, step = started(_says(collective=MEETING | {"bandwidth": 3e9}) + _says(step=STEP))
    assert meeting.state == "pass"
    assert meeting.found == "4 ranks on 2 hosts sum 4.00 MiB over nccl in 2.0 ms: 2.79 GiB/s a rank"
    assert step.found == "all of it: loss 5.5000 in 0.2 s, after 1.5 s to build; peak 3.00 GiB on rank 0"


def test_ranks_that_do_not_end(started: Started) -> None:
    """What they had done counts; what hung is named, and nothing of theirs stays."""
    meeting, step = started(_says(collective=MEETING | {"bandwidth": 3e9}) + "time.sleep(600)", seconds=10.0)
    assert (meeting.state, step.state, step.code) == ("pass", "fail", 6)
    assert "not done after 10 s" in step.found and "--limit" in step.advice


def test_ranks_that_fail(started: Started) -> None:
    words = "print('deepy: rank 1 of 4 failed: DataError: x.bin is cut', file=sys.stderr); sys.exit(3)"
    meeting, step = started(_says(collective=MEETING | {"bandwidth": 3e9}) + words)
    assert meeting.state == "pass"
    assert (step.state, step.code, step.found) == ("fail", 3, "rank 1 of 4 failed: DataError: x.bin is cut")


def test_ranks_that_do_not_meet(started: Started) -> None:
    meeting, step = started("import sys; print('Traceback\\nRuntimeError: no route', file=sys.stderr); sys.exit(1)")
    assert (meeting.state, meeting.code) == ("fail", 1) and "no route" in meeting.found
    assert (step.state, step.found) == ("skipped", "the ranks did not meet")


def test_no_step_where_there_is_nothing_to_train_on(started: Started) -> None:
    _, step = started(_says(collective={"ranks": 1}), trial="no data")
    assert (step.state, step.found) == ("skipped", "no data")


def test_the_command_leaves_no_trace_and_keeps_the_users_words(run_folder: Path) -> None:
    site = Site.of(DeepyCommand("train.py", ("tiny.yml",), ("seed=3",)))
    words = check_ranks._command(site, Trial(("num_layers=1",), ""), 30.0)
    overrides = [value for flag, value in pairwise(words) if flag == "--set"]
    assert overrides[0] == "seed=3" and overrides[-1] == "num_layers=1"
    assert {"save=null", "log_dir=null", "use_wandb=false", "timeout_minutes=0.5000"} <= set(overrides)
    assert "--no-step" in check_ranks._command(site, "no step", 30.0)


def test_no_tracker_hears_of_a_trial(run_folder: Path) -> None:
    told = ("tensorboard_dir=board", "use_wandb=true", "use_comet=true", "log_dir=logs")
    args = load_arguments(["tiny.yml"], [*told, *check_ranks._NO_TRACE])
    assert reporter._sinks(args) == []
    assert (args.save, args.load, args.log_dir) == (None, None, None)


@pytest.mark.parametrize(
    ("launcher", "begins"),
    [("ssh", ["ssh"]), ("slurm", ["srun", "--nodes=1", "--ntasks=1", "--overlap", "--nodelist=far"])],
)
def test_the_way_to_a_host(run_folder: Path, launcher: str, begins: list[str]) -> None:
    Path("hosts").write_text("far slots=1\n")
    site = Site.of(DeepyCommand("train.py", ("tiny.yml",), ("hostfile=hosts", f"launcher={launcher}")))
    command = site._command("far")
    assert [Path(command[0]).name, *command[1 : len(begins)]] == begins
    assert command[-1].endswith("-m megatron.preflight.probe") and command[-1].startswith("cd ")

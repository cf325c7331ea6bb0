"""A host is killed, frozen or cut off, at every kind of moment: the others end in time, and the run can go on exactly.

Each fault has two hosts of its own, one pipeline stage on each; the faults wait side by side.
"""

import json
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from megatron.checkpointing.reader import CheckpointReader, find_checkpoint
from tests.faults.resumed_runs import train_one_after_another
from tests.helpers.processes import run_ranks
from tests.helpers.tiny_run import tiny_settings, write_settings
from tests.multinode.hosts import Host, Hosts
from tests.multinode.run import FAULTY, NodesRun, side_by_side, waiting

LIMIT_MINUTES = 2.0  # the launcher is to notice long before the ranks would
LAST = 10

pytestmark = [pytest.mark.slow, pytest.mark.multiprocess, pytest.mark.xdist_group("multinode")]

FAULTS: dict[str, Callable[[Host], None]] = {"killed": Host.kill, "frozen": Host.freeze, "cut off": Host.cut}
MOMENTS = {
    "starting": "starting,0",
    "loading": "loading,0",
    "training": "training,7",
    "evaluation": "evaluation,4",
    "saving": "saving,6",
    "agreeing": "agreeing,7",
}
NEWEST = {"training": 6, "evaluation": 2, "saving": 4, "agreeing": 6}  # the last whole checkpoint by then


@dataclass(frozen=True)
class Case:
    """fault strikes host node2 in the middle of moment, or node1, where the launcher and rank 0 are."""

    fault: str
    moment: str
    name: str = "node2"


CASES = [
    Case("killed", "saving"),
    Case("frozen", "loading"),
    Case("cut off", "evaluation"),
    Case("frozen", "starting"),
    Case("killed", "agreeing", "node1"),
]
OTHERS = [
    Case(fault, moment) for fault in FAULTS for moment in MOMENTS if Case(fault, moment) not in CASES
]  # fmt: skip


@pytest.fixture(scope="module")
def before(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that nothing happened to: `run`, its checkpoint of step 2 in `first`."""
    folder = tmp_path_factory.mktemp("before")
    config = write_settings(folder / "config.yml", settings(data, folder / "run"))
    run_ranks(train_one_after_another, 2, str(config), [[f"save={folder / 'first'}", "exit_interval=2"], []])
    return folder


def settings(data: Path, save: Path, **changes: object) -> dict[str, object]:
    own = {
        "train_iters": LAST,
        "checkpoint_factor": 2,
        "eval_interval": 4,
        "pipe_parallel_size": 2,
        "hidden_dropout": 0.1,
    }
    return tiny_settings(data, **own, save=str(save), timeout_minutes=LIMIT_MINUTES, eval_iters=1, **changes)


def test_lost_hosts(data: Path, before: Path, tmp_path: Path, score: Callable[..., None]) -> None:
    try_all(CASES, data, before, tmp_path, score)


@pytest.mark.exhaustive
@pytest.mark.parametrize("fault", FAULTS)
def test_every_moment(fault: str, data: Path, before: Path, tmp_path: Path, score: Callable[..., None]) -> None:
    try_all([case for case in OTHERS if case.fault == fault], data, before, tmp_path, score)


@pytest.mark.exhaustive
def test_the_run_goes_on_without_a_lost_host(data: Path, tmp_path: Path) -> None:
    """Data 2 on two hosts, then alone on the first, with the same samples a step."""
    plain = {**settings(data, tmp_path / "alone"), "pipe_parallel_size": 1, "hidden_dropout": 0}
    run_ranks(train_one_after_another, 1, str(write_settings(tmp_path / "alone.yml", plain)), [[]])
    with Hosts(2, tmp_path / "hosts") as hosts:
        hosts["node2"].plan(MOMENTS["training"])
        changes = {"save": str(tmp_path / "run"), "max_restarts": 1, "min_hosts": 1}
        run = NodesRun(hosts, tmp_path, {**plain, **changes, "hostfile": str(hosts.hostfile([1, 1]))}, FAULTY)
        for _ in waiting(hosts["node2"].reached, "step 7", run.output):
            time.sleep(1)
        hosts["node2"].kill()
        assert run.end() == 0, run.output()
    assert steps(run.save) == pytest.approx(steps(tmp_path / "alone"), rel=1e-5)
    assert [event["layout"]["data"] for kind in ("start", "resume") for event in run.events(kind)] == [2, 1]


def try_all(cases: list[Case], data: Path, before: Path, folder: Path, score: Callable[..., None]) -> None:
    seconds: dict[str, float] = {}
    with ExitStack() as stack:
        stories = []
        for number, case in enumerate(cases):
            hosts = stack.enter_context(Hosts(2, folder / f"hosts{number}"))
            stories.append(lose_a_host(case, hosts, data, before, folder / f"case{number}", seconds))
        side_by_side(stories)
    go_on_exactly(cases, folder, before)
    print(*(f"| {what} | {waited:.0f} s |" for what, waited in seconds.items()), sep="\n")
    naive = "plain ssh, as DeepSpeed's runner starts it, sends no sign of life: a frozen host is waited for without end"
    score("N1", len(cases), len(cases), naive, list(seconds.values()))


def lose_a_host(
    case: Case, hosts: Hosts, data: Path, before: Path, folder: Path, seconds: dict[str, float]
) -> Iterator[None]:
    struck = hosts[case.name]
    other = next(host for host in hosts.all if host is not struck)
    struck.plan(MOMENTS[case.moment])
    load = {"load": str(before / "first")} if case.moment == "loading" else {}
    run = NodesRun(hosts, folder, settings(data, folder / "run", hostfile=str(hosts.hostfile([1, 1])), **load), FAULTY)
    yield from waiting(struck.reached, f"{case} to be reached", run.output)
    FAULTS[case.fault](struck)
    if case.fault == "cut off":
        struck.go_on()
    start, what = time.monotonic(), f"{case.name} {case.fault}, {case.moment}"
    yield from waiting(lambda: not other.processes(), f"{other.name} to be empty after {case}", run.output)
    seconds[what] = time.monotonic() - start
    if case.fault == "cut off":
        yield from waiting(lambda: not struck.processes(), f"{struck.name} to be empty as well", run.output)
        seconds[f"{what}: {case.name} itself"] = time.monotonic() - start
    if case.name == "node1":
        return
    yield from waiting(lambda: run.process.poll() is not None, "the launcher to end", run.output)
    assert run.process.returncode == 6, run.output()
    assert "node2" in run.output()
    if case.fault == "frozen":
        struck.thaw()
        yield from waiting(lambda: not struck.processes(), f"{struck.name} to be empty once thawed", run.output)


def go_on_exactly(cases: Sequence[Case], folder: Path, before: Path) -> None:
    """From the newest whole checkpoint to the end: losses and weights are those of the run that nothing happened to."""
    pieces = []
    for number, case in enumerate(cases):
        save = folder / f"case{number}" / "run"
        if case.moment in NEWEST:
            assert find_checkpoint(save).name == f"global_step{NEWEST[case.moment]}", case
        begin = "auto_resume=true" if case.moment in NEWEST else f"load={before / 'first'}"
        pieces.append([f"save={save}", begin])
    run_ranks(train_one_after_another, 2, str(before / "config.yml"), pieces)
    unbroken, theirs = steps(before / "run"), CheckpointReader(find_checkpoint(before / "run"))
    for number, case in enumerate(cases):
        save = folder / f"case{number}" / "run"
        losses, ours = steps(save), CheckpointReader(find_checkpoint(save))
        assert losses == {step: unbroken[step] for step in losses} and max(losses) == LAST, case
        for name in theirs.names():
            assert torch.equal(ours.weight(name), theirs.weight(name)), (case, name)


def steps(save: Path) -> dict[int, float]:
    events = [json.loads(line) for line in (save / "events.jsonl").read_text().splitlines()]
    return {event["iteration"]: event["loss"] for event in events if event["kind"] == "step"}

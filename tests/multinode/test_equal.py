"""Two hosts, and three with unequal slots, train what one process trains; a lost host and a stop cost no exactness.

Each run is `python deepy.py train.py config.yml` on the first host. Pipeline 2 x data 2: the stages' exchange and the
gradients' average both cross the network.
"""

import json
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from megatron.checkpointing.reader import CheckpointReader, find_checkpoint
from tests.faults.resumed_runs import train_one_after_another
from tests.helpers.processes import run_ranks
from tests.helpers.tiny_run import tiny_settings, write_settings
from tests.multinode.hosts import Hosts
from tests.multinode.run import FAULTY, NodesRun, wait_for

LAST = 12

pytestmark = [pytest.mark.slow, pytest.mark.multiprocess, pytest.mark.xdist_group("multinode")]


@pytest.fixture(scope="module")
def hosts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hosts]:
    with Hosts(3, tmp_path_factory.mktemp("hosts")) as hosts:
        yield hosts


def test_killed_on_two_hosts_stopped_on_three_and_finished_on_one(hosts: Hosts, data: Path, tmp_path: Path) -> None:
    """Steps 1 to 6 on two hosts, 5 to 9 on three, the rest here; held against runs of 12 steps that stayed here."""
    save, layout = tmp_path / "run", {"pipe_parallel_size": 2, "auto_resume": True}
    settings = tiny_settings(data, train_iters=LAST, checkpoint_factor=4, save=str(save))

    hosts["node2"].plan("training,7")
    two = {**settings, **layout, "hostfile": str(hosts.hostfile([2, 2]))}
    killed = NodesRun(hosts, tmp_path / "two", two, FAULTY)
    wait_for(hosts["node2"].reached, "step 7 on node2", killed.output)
    hosts["node2"].kill()
    assert killed.end() == 6, killed.output()
    wait_for(lambda: not killed.left_behind("node1"), "node1 to be empty", killed.output)
    assert "node2" in killed.output()

    hosts["node2"].start()
    hosts["node3"].plan("training,9")
    three = {**settings, **layout, "hostfile": str(hosts.hostfile([2, 1, 1]))}
    stopped = NodesRun(hosts, tmp_path / "three", three, FAULTY)
    wait_for(hosts["node3"].reached, "step 9 on node3", stopped.output)
    stopped.send(signal.SIGTERM)
    wait_for(lambda: "SIGTERM" in stopped.output(), "the launcher to pass SIGTERM on", stopped.output)
    hosts["node3"].go_on()
    assert stopped.end() == 75, stopped.output()
    wait_for(lambda: not stopped.left_behind(), "all hosts to be empty", stopped.output)
    assert stopped.events("resume")[-1]["iteration"] == 4
    assert 9 <= reader(save).iteration < LAST

    config = str(write_settings(tmp_path / "here.yml", settings))
    run_ranks(train_one_after_another, 1, config, [[f"save={tmp_path / 'single'}"]])
    pieces = [[f"save={tmp_path / 'unbroken'}"], ["auto_resume=true"]]
    run_ranks(train_one_after_another, 4, config, [["pipe_parallel_size=2", *piece] for piece in pieces])
    alone, unbroken, found = (losses(tmp_path / name) for name in ("single", "unbroken", "run"))
    assert dict(found) == dict(unbroken) and len(found) == LAST + 2  # 5 and 6 were done twice
    assert all(loss == dict(unbroken)[step] for step, loss in found)
    assert dict(found) == pytest.approx(dict(alone), rel=1e-5) and len(alone) == LAST
    ours, same, single = reader(save), reader(tmp_path / "unbroken"), reader(tmp_path / "single")
    for name in single.names():
        assert torch.equal(ours.weight(name), same.weight(name)), name
        torch.testing.assert_close(ours.weight(name), single.weight(name), rtol=0, atol=1e-5)


def losses(save: Path) -> list[tuple[int, float]]:
    """Step and loss, in the order of the log."""
    events = [json.loads(line) for line in (save / "events.jsonl").read_text().splitlines()]
    return [(event["iteration"], event["loss"]) for event in events if event["kind"] == "step"]


def reader(save: Path) -> CheckpointReader:
    return CheckpointReader(find_checkpoint(save))

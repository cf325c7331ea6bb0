"""Two hosts, and three with unequal slots, train what one process trains; a lost host costs no exactness.

Pipeline 2 x data 2: the stages' exchange and the gradients' average both cross the network.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from megatron.checkpointing.reader import CheckpointReader, find_checkpoint
from tests.faults.resumed_runs import train_one_after_another
from tests.helpers.processes import run_ranks
from tests.helpers.tiny_run import tiny_settings, write_settings
from tests.multinode.hosts import Hosts
from tests.multinode.run import FAULTY, NodesRun, wait_for

pytestmark = [pytest.mark.slow, pytest.mark.multiprocess, pytest.mark.xdist_group("multinode")]


@pytest.fixture(scope="module")
def hosts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hosts]:
    with Hosts(3, tmp_path_factory.mktemp("hosts")) as hosts:
        yield hosts


@pytest.fixture(scope="module")
def undisturbed(hosts: Hosts, data: Path, tmp_path_factory: pytest.TempPathFactory) -> NodesRun:
    folder = tmp_path_factory.mktemp("undisturbed")
    run = NodesRun(hosts, folder, settings(hosts, data, folder / "run", [2, 2]))
    assert run.end() == 0, run.output()
    return run


def settings(hosts: Hosts, data: Path, save: Path, slots: list[int], **changes: Any) -> dict[str, Any]:
    own = {"pipe_parallel_size": 2, "train_iters": 12, "checkpoint_factor": 4, "auto_resume": True, "save": str(save)}
    return tiny_settings(data, **own, hostfile=str(hosts.hostfile(slots)), **changes)


def test_two_hosts_equal_one_process(undisturbed: NodesRun, data: Path, tmp_path: Path) -> None:
    single = tmp_path / "single"
    config = write_settings(
        tmp_path / "config.yml", tiny_settings(data, train_iters=12, checkpoint_factor=12, save=str(single))
    )
    run_ranks(train_one_after_another, 1, str(config), [[]])
    alone = {
        event["iteration"]: event["loss"]
        for line in (single / "events.jsonl").read_text().splitlines()
        if (event := json.loads(line))["kind"] == "step"
    }
    assert len(alone) == 12 and undisturbed.losses() == pytest.approx(alone, rel=1e-5)
    ours, theirs = reader(undisturbed.save), reader(single)
    for name in theirs.names():
        torch.testing.assert_close(ours.weight(name), theirs.weight(name), rtol=0, atol=1e-5)
    assert undisturbed.left_behind() == {}


def test_a_killed_host_and_the_rest_of_the_run_on_three(
    hosts: Hosts, data: Path, undisturbed: NodesRun, tmp_path: Path
) -> None:
    save, second = tmp_path / "run", hosts["node2"]
    (second.run / "fault").write_text("training,7")
    killed = NodesRun(hosts, tmp_path / "killed", settings(hosts, data, save, [2, 2]), FAULTY)
    wait_for((second.run / "reached").exists, "step 7 on node2", killed.output)
    second.kill()
    assert killed.end() == 6, killed.output()
    wait_for(lambda: not killed.left_behind("node1"), "node1 to be empty", killed.output)
    assert "node2" in killed.output()
    second.start()
    rest = NodesRun(hosts, tmp_path / "rest", settings(hosts, data, save, [2, 1, 1]))
    assert rest.end() == 0, rest.output()
    assert rest.events("resume")[-1]["iteration"] == 4
    assert rest.losses() == undisturbed.losses()
    ours, theirs = reader(save), reader(undisturbed.save)
    assert ours.iteration == theirs.iteration == 12
    for name in theirs.names():
        assert torch.equal(ours.weight(name), theirs.weight(name)), name


def reader(save: Path) -> CheckpointReader:
    return CheckpointReader(find_checkpoint(save))

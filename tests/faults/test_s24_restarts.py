"""deepy.py starts a crashed run again, from its newest checkpoint, and gives up when nothing is gained."""

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.faults.live_run import LiveRun
from tests.helpers.tiny_run import write_tiny_data

pytestmark = [pytest.mark.multiprocess, pytest.mark.slow]


def test_again_and_no_more(tmp_path: Path, score: Callable[..., None]) -> None:
    data = write_tiny_data(tmp_path / "data")
    common = {"quick_restarts": True, "max_restarts": 10, "checkpoint_factor": 4, "num_gpus": 1}
    hopeless = LiveRun(tmp_path / "hopeless", data, "0,training,3,raise", **common)
    once = LiveRun(
        tmp_path / "once", data, "0,training,6,SIGKILL,SIGN", train_iters=8, log_sample_hashes=True, **common
    )
    whole = LiveRun(tmp_path / "whole", data, train_iters=8, log_sample_hashes=True, checkpoint_factor=4, num_gpus=1)
    assert hopeless.end() == 1, hopeless.output()
    assert hopeless.output().count("planted by the test") >= 3
    assert len(hopeless.events("fault")) == 3
    assert "3 crashes in a row without a new checkpoint" in hopeless.output()
    assert once.end() == 0, once.output()
    assert whole.end() == 0, whole.output()
    assert [event["iteration"] for event in once.events("resume")] == [4]
    hashes = {event["iteration"]: event["hash"] for event in once.events("samples")}
    assert hashes == {event["iteration"]: event["hash"] for event in whole.events("samples")}
    score("S24", 1, 1, "restarts for ever on the same fault")

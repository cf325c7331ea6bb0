"""A tracker whose server does not answer costs a warning: the run goes on and its own log is whole."""

import json
import socket
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.helpers.processes import run_ranks
from tests.helpers.tiny_run import tiny_settings, write_settings, write_tiny_data


class Unreachable:
    """Really connects, to a port where nobody listens."""

    name = "tracker"

    def __init__(self) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.tried = 0

    def scalars(self, values: Mapping[str, float], iteration: int) -> None:
        self.tried += 1
        socket.create_connection(("127.0.0.1", self.port), timeout=5)

    def close(self) -> None:
        socket.create_connection(("127.0.0.1", self.port), timeout=5)


@pytest.mark.multiprocess
def test_the_run_goes_on(tmp_path: Path, score: Callable[..., None]) -> None:
    with pytest.raises(ConnectionRefusedError):
        Unreachable().scalars({}, 1)
    data = write_tiny_data(tmp_path / "data")
    settings = tiny_settings(data, train_iters=6, save=str(tmp_path / "run"), checkpoint_factor=3)
    [tried] = run_ranks(tracked_run, 1, str(write_settings(tmp_path / "config.yml", settings)))
    events = [json.loads(line) for line in (tmp_path / "run" / "events.jsonl").read_text().splitlines()]
    steps = [event["iteration"] for event in events if event["kind"] == "step"]
    whole = steps == [1, 2, 3, 4, 5, 6] and events[-1]["kind"] == "end"
    score("S33", int(whole and tried == 1), 1, "an exception in the tracker ends the run")


def tracked_run(config: str) -> int:
    """How often the tracker was asked."""
    from megatron.neox_arguments.load import load_arguments
    from megatron.training import reporter
    from megatron.training.build import build_run, start_parallel
    from megatron.training.loop import train

    sink = Unreachable()
    reporter._sinks = lambda args: [sink]  # type: ignore[assignment]
    args: Any = load_arguments([config], [], world_size=1)
    train(build_run(args, start_parallel(args)))
    return sink.tried

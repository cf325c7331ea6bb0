"""Trackers whose server refuses or never answers: the run goes on at its own pace and its own log is whole."""

import json
import socket
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from megatron.monitor import trackers
from tests.helpers.processes import run_ranks
from tests.helpers.tiny_run import tiny_settings, write_settings, write_tiny_data


class Refused:
    """Really connects, to a port where nobody listens."""

    name = "refused"

    def __init__(self) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.tried = 0

    def start(self) -> None:
        pass

    def rewind(self, iteration: int) -> None:
        pass

    def scalars(self, values: Mapping[str, float], iteration: int) -> None:
        self.tried += 1
        socket.create_connection(("127.0.0.1", self.port), timeout=5)

    def close(self, failed: bool) -> None:
        raise AssertionError("it is off")


class Silent(Refused):
    """Waits for ever for an answer."""

    name = "silent"

    def scalars(self, values: Mapping[str, float], iteration: int) -> None:
        self.tried += 1
        threading.Event().wait()


@pytest.mark.multiprocess
def test_the_run_goes_on(tmp_path: Path, score: Callable[..., None]) -> None:
    with pytest.raises(ConnectionRefusedError):
        Refused().scalars({}, 1)
    data = write_tiny_data(tmp_path / "data")
    settings = tiny_settings(data, train_iters=6, save=str(tmp_path / "run"), checkpoint_factor=3)
    [tried] = run_ranks(tracked_run, 1, str(write_settings(tmp_path / "config.yml", settings)))
    events = [json.loads(line) for line in (tmp_path / "run" / "events.jsonl").read_text().splitlines()]
    steps = [event["iteration"] for event in events if event["kind"] == "step"]
    whole = steps == [1, 2, 3, 4, 5, 6] and events[-1]["kind"] == "end"
    score("S33", sum(whole and times == 1 for times in tried), 2, "an exception or a wait in the tracker ends the run")


def tracked_run(config: str) -> tuple[int, int]:
    """How often each tracker was asked."""
    from megatron.neox_arguments.load import load_arguments
    from megatron.training import reporter
    from megatron.training.build import build_run, start_parallel
    from megatron.training.loop import train

    sinks = Refused(), Silent()
    reporter._sinks = lambda args: list(sinks)  # type: ignore[assignment]
    reporter.Trackers = lambda sinks: trackers.Trackers(sinks, patience=0.5)  # type: ignore[assignment,misc]
    args: Any = load_arguments([config], [], world_size=1)
    train(build_run(args, start_parallel(args)))
    return sinks[0].tried, sinks[1].tried

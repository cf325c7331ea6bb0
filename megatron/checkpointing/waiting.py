"""Waiting for what another host has written: a network file system may show it seconds late."""

import time
from collections.abc import Callable

from megatron.errors import CheckpointError

PATIENCE = 120.0


def wait_until(seen: Callable[[], bool], what: str, patience: float = PATIENCE, interval: float = 0.1) -> None:
    """Return once `seen()` is true; CheckpointError naming `what` when it is not after `patience` seconds."""
    deadline = time.monotonic() + patience
    while not seen():
        if time.monotonic() >= deadline:
            raise CheckpointError(
                f"waited {patience:.0f} s in vain for {what}. All hosts must see the same folder: "
                "is it on a shared file system, mounted everywhere?"
            )
        time.sleep(interval)

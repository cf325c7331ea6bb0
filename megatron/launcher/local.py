"""A run whose ranks are all on this host: environments and commands for the spawner."""

import os
import sys
from collections.abc import Mapping, Sequence

from megatron.launcher.accelerators import usable_cores
from megatron.launcher.environment import loopback_variables, python_path, rank_variables, thread_variables
from megatron.launcher.failure_record import FOLDER_VARIABLE
from megatron.launcher.hosts import device_variables
from megatron.launcher.spawn import Rank

# The launcher's own inventions, and what an outer launcher or scheduler may have left for its one process.
_NOT_INHERITED = ("RANK", "LOCAL_RANK", "GROUP_RANK", "ROLE_RANK", "LOCAL_SIZE")


def local_ranks(
    command: Sequence[str],
    slots: tuple[int, ...],
    *,
    master_addr: str,
    master_port: int,
    failure_folder: str,
    environment: Mapping[str, str] = os.environ,
) -> list[Rank]:
    """One rank per slot, each with the user's environment and its own place in the run."""
    base = {name: value for name, value in environment.items() if name not in _NOT_INHERITED}
    base |= {
        **thread_variables(environment, usable_cores(), len(slots)),
        **loopback_variables(environment),
        **device_variables(slots),
        "PYTHONPATH": python_path(environment),
        "PYTHONFAULTHANDLER": environment.get("PYTHONFAULTHANDLER") or "1",
        FOLDER_VARIABLE: failure_folder,
    }
    return [
        Rank(
            rank,
            command,
            base
            | rank_variables(
                rank=rank,
                local_rank=rank,
                world_size=len(slots),
                local_world_size=len(slots),
                master_addr=master_addr,
                master_port=master_port,
            ),
        )
        for rank in range(len(slots))
    ]


def script_command(script: str, settings_file: str, arguments: Sequence[str]) -> list[str]:
    """What every rank runs."""
    return [sys.executable, "-u", script, "--settings", settings_file, *arguments]

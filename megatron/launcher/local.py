"""The ranks of this host: environments and commands for the spawner."""

import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from megatron.launcher.accelerators import usable_cores
from megatron.launcher.environment import loopback_variables, python_path, rank_variables, thread_variables
from megatron.launcher.failure_record import FOLDER_VARIABLE
from megatron.launcher.hosts import device_variables
from megatron.launcher.meeting import interface_variables
from megatron.launcher.spawn import Rank
from megatron.neox_arguments.settings_file import write_private

# The launcher's own inventions, and what an outer launcher or scheduler may have left for its one process.
_NOT_INHERITED = ("RANK", "LOCAL_RANK", "GROUP_RANK", "ROLE_RANK", "LOCAL_SIZE")


@dataclass(frozen=True)
class Work:
    """What every rank runs. script: its path; settings: text of settings_file.py; arguments: for the script itself."""

    script: str
    settings: str
    arguments: tuple[str, ...] = ()

    def command(self, folder: str | Path) -> list[str]:
        """A rank's command line; the settings are written into a private file in folder."""
        file = Path(folder, "settings.json")
        write_private(file, self.settings)
        return [sys.executable, "-u", self.script, "--settings", str(file), *self.arguments]


def local_ranks(
    command: Sequence[str],
    slots: tuple[int, ...],
    *,
    master_addr: str,
    master_port: int,
    failure_folder: str,
    environment: Mapping[str, str] = os.environ,
    first_rank: int = 0,
    world_size: int | None = None,
    outputs: Sequence[tuple[int, int]] | None = None,
) -> list[Rank]:
    """One rank per slot, each with the user's environment and its own place in the run.

    first_rank, world_size: this host's share of a run on several; by default all ranks are here. outputs: see Rank.
    """
    world_size = world_size or len(slots)
    if world_size == len(slots):
        interface = loopback_variables(environment)
    else:
        interface = interface_variables(environment, master_addr)
    base = {name: value for name, value in environment.items() if name not in _NOT_INHERITED}
    base |= {
        **thread_variables(environment, usable_cores(), len(slots)),
        **interface,
        **device_variables(slots),
        "PYTHONPATH": python_path(environment),
        "PYTHONFAULTHANDLER": environment.get("PYTHONFAULTHANDLER") or "1",
        FOLDER_VARIABLE: failure_folder,
    }
    return [
        Rank(
            first_rank + local_rank,
            command,
            base
            | rank_variables(
                rank=first_rank + local_rank,
                local_rank=local_rank,
                world_size=world_size,
                local_world_size=len(slots),
                master_addr=master_addr,
                master_port=master_port,
            ),
            outputs[local_rank] if outputs else None,
        )
        for local_rank in range(len(slots))
    ]

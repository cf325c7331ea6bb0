"""What an MPI launcher or srun starts for every rank: unpacks the parcel, takes its place, becomes the script."""

import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from megatron.launcher.parcel import Parcel

_OF_OUTER_LAUNCHERS = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "GROUP_RANK", "ROLE_RANK")


def main() -> None:
    from megatron.launcher.entry import run_main
    from megatron.launcher.parent_death import die_with_parent

    die_with_parent(os.getppid())()
    try:
        parcel = take_parcel()
        environment = place_of_rank(parcel, os.environ)
    except Exception as error:
        failure = error  # its name ends with the block
        run_main(lambda: _fail(failure))
    parcel.become(environment)


def take_parcel() -> "Parcel":
    """From the variable or the file that it names; the variable goes no further."""
    from megatron.launcher.parcel import VARIABLE, Parcel

    file = os.environ.pop(f"{VARIABLE}_FILE", None)
    return Parcel.from_bytes(Path(file).read_bytes()) if file else Parcel.from_word(os.environ.pop(VARIABLE))


def place_of_rank(parcel: "Parcel", inherited: Mapping[str, str]) -> dict[str, str]:
    """The rank's whole environment. SettingsError where the launcher put it on another host or slot than we chose."""
    from megatron.errors import SettingsError
    from megatron.launcher.accelerators import usable_cores
    from megatron.launcher.environment import scheduler_rank_variables, thread_variables
    from megatron.launcher.hosts import device_variables

    environment = {name: value for name, value in inherited.items() if name not in _OF_OUTER_LAUNCHERS}
    environment |= parcel.environment
    own = scheduler_rank_variables(environment)
    if not own:
        raise SettingsError(
            "the launcher gave this process no rank: none of OMPI_COMM_WORLD_RANK, MV2_COMM_WORLD_RANK, PMI_RANK with "
            "MPI_LOCALRANKID, SLURM_PROCID and their sizes is set. Check `launcher` against the MPI that is installed."
        )
    rank, first = int(own["RANK"]), 0
    expected = f"{sum(len(slots) for _, slots in parcel.slots)} ranks"
    for host, slots in parcel.slots:
        if first <= rank < first + len(slots):
            environment |= {**own, "LOCAL_WORLD_SIZE": str(len(slots)), **device_variables(slots)}
            environment |= thread_variables(environment, usable_cores(), len(slots))
            expected = f"rank {rank} as number {rank - first} of {host}"
            if int(own["LOCAL_RANK"]) == rank - first:
                return environment
        first += len(slots)
    raise SettingsError(
        f"the launcher started rank {rank} as number {own['LOCAL_RANK']} of its host; the hostfile means {expected}. "
        "The launcher does not keep to the hosts and slots it was given; see its page in docs/launchers."
    )


def _fail(error: Exception) -> None:
    raise error


if __name__ == "__main__":
    # A script's own folder comes first on sys.path; the names in this one must not hide others.
    sys.path[0] = str(Path(__file__).resolve().parents[2])
    main()

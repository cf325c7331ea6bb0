"""Runs on every host of a multi-host run: unpacks the parcel of the launcher and becomes the script.

Called by DeepSpeed's launcher as `python on_host.py FILE`, or by an MPI or Slurm launcher, whose names for the rank
are translated here.
"""

import os
import sys
from pathlib import Path


def main() -> None:
    # A script's own folder comes first on sys.path; the names in this one must not hide others.
    sys.path[0] = str(Path(__file__).resolve().parents[2])
    from megatron.launcher.accelerators import usable_cores
    from megatron.launcher.environment import scheduler_rank_variables, thread_variables
    from megatron.launcher.parcel import Parcel
    from megatron.launcher.parent_death import die_with_parent

    parcel = Parcel.from_bytes(Path(sys.argv[1]).read_bytes())
    environment = {**os.environ, **parcel.environment}
    environment |= scheduler_rank_variables(environment)
    environment.setdefault("LOCAL_WORLD_SIZE", environment.get("LOCAL_SIZE", "1"))
    environment |= thread_variables(environment, usable_cores(), int(environment["LOCAL_WORLD_SIZE"]))
    die_with_parent(os.getppid())()
    parcel.become(environment)


if __name__ == "__main__":
    main()

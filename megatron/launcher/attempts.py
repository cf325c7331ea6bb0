"""One start of all ranks, on this host or on several, to their end."""

import sys
import tempfile
import time
from pathlib import Path

from megatron.errors import SettingsError
from megatron.launcher.environment import repository_root
from megatron.launcher.failure_record import read_saved_step
from megatron.launcher.fleet import Fleet, HostsGone, mission_of
from megatron.launcher.hostfile import Hosts
from megatron.launcher.hosts import check_capacity
from megatron.launcher.local import Work, local_ranks
from megatron.launcher.ports import check_port, free_port
from megatron.launcher.report import Report, say
from megatron.launcher.retries import Attempt
from megatron.launcher.spawn import Patience, run_ranks
from megatron.neox_arguments.arguments import NeoXArgs


def check_this_host(hosts: Hosts, args: NeoXArgs) -> None:
    """SettingsError if this host cannot run all ranks, or they cannot meet at the wanted port."""
    if hosts.world_size > 1:
        check_capacity(_slots_here(hosts), args.num_gpus, args.hostfile)
    if args.master_port is not None:
        check_port(args.master_port)


def start_here(work: Work, hosts: Hosts, args: NeoXArgs, patience: Patience) -> tuple[Attempt, str]:
    """All ranks on this host; how they ended, and the cause in words."""
    with tempfile.TemporaryDirectory(prefix="deepy-") as folder:
        ranks = local_ranks(
            work.command(folder),
            _slots_here(hosts),
            master_addr=args.master_addr or "127.0.0.1",
            master_port=args.master_port or free_port(),
            failure_folder=folder,
        )
        report = Report(len(ranks), Path(folder))
        start = time.monotonic()
        outcome = run_ranks(ranks, patience=patience, on_exit=report.on_exit, say=say)
        code = report.close(outcome, start)
        saved_step = read_saved_step(Path(folder))
        return Attempt(code, saved_step, stopped=outcome.stop_signal is not None), report.cause


def start_on_hosts(work: Work, hosts: Hosts, args: NeoXArgs, patience: Patience) -> tuple[Attempt, str]:
    """The same on several hosts. SettingsError when one does not answer or lacks something."""
    with tempfile.TemporaryDirectory(prefix="deepy-") as folder:
        report = Report(hosts.world_size, Path(folder))
        fleet = Fleet(hosts, mission_of(args, work, patience), Path(folder), report.on_exit)
        start = time.monotonic()
        try:
            outcome = fleet.run()
        except HostsGone as gone:
            raise SettingsError(
                f"no answer from these hosts:\n{gone}\n"
                "Each needs a login without a password (try `ssh HOST true`; keys are set up with `ssh-copy-id HOST`), "
                f"and {sys.executable} and {repository_root()} under the same path."
            ) from None
        code = report.close(outcome, start)
        return Attempt(code, fleet.saved_step, stopped=outcome.stop_signal is not None), report.cause


def _slots_here(hosts: Hosts) -> tuple[int, ...]:
    return next(iter(hosts.slots.values()))

"""One start of all ranks, on this host or on several, to their end."""

import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from megatron.errors import SettingsError
from megatron.launcher.elastic import Share, TooFewHosts, fewer_hosts
from megatron.launcher.environment import repository_root
from megatron.launcher.exit_codes import PEER_LOST
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


class OnHosts:
    """Starts on several hosts. The first needs them all; a later one may go on with fewer (min_hosts)."""

    def __init__(self, whole: Share, overrides: tuple[str, ...], patience: Patience) -> None:
        """overrides: the user's own `key=value`."""
        self._whole, self._overrides, self._patience = whole, overrides, patience
        self._begun = False
        self._silent: dict[str, float] = {}

    def start(self, work: Callable[[tuple[str, ...]], Work]) -> tuple[Attempt, str]:
        """All ranks on all hosts, or on those that answer. work: what they run, given changes of settings.

        SettingsError when this is the first start, and a host does not answer or lacks something.
        """
        share, gone = self._whole, dict[str, str]()
        self._wait_for_the_silent()
        while True:
            try:
                result = self._run(work(share.changes), share)
                self._begun = True
                return result
            except HostsGone as silent:
                if not self._begun:
                    raise SettingsError(_no_answer(silent)) from None
                gone |= silent.reasons
                say(_no_answer(silent))
            try:
                share = fewer_hosts(self._whole, gone, self._overrides)
            except TooFewHosts as few:
                say(str(few))
                return Attempt(PEER_LOST, None), f"no answer from {', '.join(gone)}"
            say(
                f"going on with {', '.join(share.hosts.slots)}: {share.hosts.world_size} ranks instead of "
                f"{self._whole.hosts.world_size}, {', '.join(share.changes)}"
            )

    def _run(self, work: Work, share: Share) -> tuple[Attempt, str]:
        with tempfile.TemporaryDirectory(prefix="deepy-") as folder:
            report = Report(share.hosts.world_size, Path(folder))
            fleet = Fleet(share.hosts, mission_of(share.args, work, self._patience), Path(folder), report.on_exit)
            start = time.monotonic()
            outcome = fleet.run()
            code = report.close(outcome, start)
            self._silent = fleet.silent
            return Attempt(code, fleet.saved_step, stopped=outcome.stop_signal is not None), report.cause

    def _wait_for_the_silent(self) -> None:
        """A host that was cut off may still be at work in the save folder; its agent ends that within a known time."""
        seconds = max(self._silent.values(), default=0.0) - time.monotonic()
        if seconds > 0:
            say(f"{', '.join(self._silent)} fell silent: its ranks end by themselves within {seconds:.0f} s; waiting")
            time.sleep(seconds)


def _no_answer(gone: HostsGone) -> str:
    return (
        f"no answer from these hosts:\n{gone}\n"
        "Each needs a login without a password (try `ssh HOST true`; keys are set up with `ssh-copy-id HOST`), "
        f"and {sys.executable} and {repository_root()} under the same path."
    )


def _slots_here(hosts: Hosts) -> tuple[int, ...]:
    return next(iter(hosts.slots.values()))

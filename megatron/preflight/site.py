"""What is looked at: a run's settings, its hosts, and the probes on them."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from megatron.errors import SettingsError
from megatron.launcher.command_line import DeepyCommand
from megatron.launcher.connections import shell_command, ssh_command
from megatron.launcher.environment import forwarded_variables, python_path
from megatron.launcher.hostfile import Hosts
from megatron.launcher.hosts import needs_other_hosts
from megatron.launcher.launch import settings_and_hosts
from megatron.neox_arguments.arguments import NeoXArgs
from megatron.preflight.everyone import Answers, Everyone
from megatron.preflight.talk import Talk

PROBE = "megatron.preflight.probe"


@dataclass(frozen=True)
class Site:
    """command: as for `deepy.py train.py`; args, hosts: what it amounts to; several: whether ssh is needed."""

    command: DeepyCommand
    args: NeoXArgs
    hosts: Hosts
    several: bool

    @classmethod
    def of(cls, command: DeepyCommand) -> "Site":
        """Raises SettingsError where the settings or the hostfile are wrong."""
        args, hosts = settings_and_hosts(command)
        several = needs_other_hosts(hosts, args.force_multi)
        for program in _programs(args.launcher) if several else ():
            if shutil.which(program) is None:
                raise SettingsError(f"launcher {args.launcher!r} needs the program {program!r}, which is not on PATH.")
        return cls(command, args, hosts, several)

    @property
    def first(self) -> str:
        """The host where the ranks meet."""
        return next(iter(self.hosts.slots))

    @contextmanager
    def probes(self, limit: float) -> Iterator[Everyone]:
        """A probe on every host for as long as the block lasts. limit: see Everyone."""
        everyone = Everyone({host: Talk(host, self._command(host)) for host in self.hosts.slots}, limit)
        try:
            yield everyone
        finally:
            everyone.close()

    def begin(self, everyone: Everyone, seconds: float) -> Answers:
        """Give the probes the environment and folder that the ranks will have; host -> where it was reached."""
        variables = {**forwarded_variables(os.environ), "PYTHONPATH": python_path(os.environ)}
        return everyone.ask("begin", seconds, variables=variables, folder=os.getcwd())

    def _command(self, host: str) -> list[str]:
        if not self.several:
            return ["sh", "-c", shell_command(PROBE)]
        if self.args.launcher == "slurm":
            return [
                "srun",
                "--nodes=1",
                "--ntasks=1",
                "--overlap",
                f"--nodelist={host}",
                "sh",
                "-c",
                shell_command(PROBE),
            ]
        return ssh_command(host, os.environ, PROBE)


def _programs(launcher: str) -> tuple[str, ...]:
    """Of those that the checks use; the launcher itself looks for its own."""
    return ("srun",) if launcher == "slurm" else ("ssh",)

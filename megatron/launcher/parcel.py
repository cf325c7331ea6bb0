"""What a rank on another host needs from here: environment, script, settings. Never part of a command line.

The values of environment variables and settings may be keys; every user of a machine can read its command lines.
A parcel travels through ssh's standard input (`ssh.py`) or in one environment variable of an MPI launcher.
"""

import base64
import json
import os
import sys
import tempfile
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

from megatron.launcher.environment import forwarded_variables, python_path
from megatron.launcher.hostfile import Hosts
from megatron.neox_arguments.arguments import NeoXArgs

VARIABLE = "DEEPY_PARCEL"


@dataclass(frozen=True)
class Parcel:
    """environment: goes over the host's own; settings: text of settings_file.py; folder: where the script starts.

    slots: of each host, in the order of the ranks.
    """

    environment: Mapping[str, str]
    script: str
    settings: str
    arguments: tuple[str, ...]
    folder: str
    slots: tuple[tuple[str, tuple[int, ...]], ...] = ()
    python: str = sys.executable

    def to_bytes(self) -> bytes:
        return json.dumps(asdict(self)).encode("ascii")

    @classmethod
    def from_bytes(cls, content: bytes) -> "Parcel":
        fields = json.loads(content)
        slots = tuple((host, tuple(slots)) for host, slots in fields["slots"])
        return cls(**{**fields, "arguments": tuple(fields["arguments"]), "slots": slots})

    def to_word(self) -> str:
        """Letters, digits, `-`, `_` and `=`: what no launcher's own reading of an environment can change."""
        return base64.urlsafe_b64encode(zlib.compress(self.to_bytes(), 9)).decode("ascii")

    @classmethod
    def from_word(cls, word: str) -> "Parcel":
        return cls.from_bytes(zlib.decompress(base64.urlsafe_b64decode(word)))

    def command(self, settings_file: str) -> list[str]:
        """What a rank runs."""
        return [self.python, "-u", self.script, "--settings", settings_file, *self.arguments]

    def become(self, environment: Mapping[str, str]) -> None:
        """Replace this process by the script; its settings lie in a file without a name. Does not return."""
        with tempfile.TemporaryFile() as file:
            file.write(self.settings.encode("utf-8"))
            file.seek(0)
            os.set_inheritable(file.fileno(), True)
            os.chdir(self.folder)
            command = self.command(f"/dev/fd/{file.fileno()}")
            sys.stdout.flush()
            os.execve(command[0], command, dict(environment))


def parcel_of(
    args: NeoXArgs, hosts: Hosts, script: str, settings: str, arguments: Sequence[str], meeting: Mapping[str, str]
) -> Parcel:
    """The same for all hosts. meeting: MASTER_ADDR and MASTER_PORT, where they are known here."""
    variables = forwarded_variables(os.environ, args.forward_environment)
    variables |= {"PYTHONPATH": python_path(os.environ), **meeting}
    return Parcel(variables, script, settings, tuple(arguments), os.getcwd(), tuple(hosts.slots.items()))

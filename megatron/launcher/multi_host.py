"""A run on several hosts, started by DeepSpeed's runner through pdsh (or another of its launchers).

All that must arrive unchanged and unseen, environment and settings, is brought to each host as a file (`parcel.py`,
`ssh.py`); `on_host.py` unpacks it on the other side.
"""

import importlib.util
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from megatron.errors import SettingsError
from megatron.launcher.environment import forwarded_variables, python_path
from megatron.launcher.exit_codes import PEER_LOST, describe_code, signal_name
from megatron.launcher.hostfile import Hosts
from megatron.launcher.hosts import is_this_host
from megatron.launcher.parcel import Parcel
from megatron.launcher.ports import check_port
from megatron.launcher.report import say
from megatron.launcher.spawn import Outcome, Patience, Rank, run_ranks
from megatron.launcher.ssh import OPTIONS, check_reachable, delivered
from megatron.neox_arguments.arguments import NeoXArgs

DEFAULT_PORT = 29500
_PROGRAMS = {"pdsh": "pdsh", "openmpi": "mpirun", "mvapich": "mpirun_rsh", "slurm": "srun"}
# DeepSpeed copies variables with these beginnings into the remote shell command, in double quotes at best.
_COPIED_BY_RUNNER = ("MLFLOW", "PYTHON", "MV2", "UCX", "NCCL", "LD_LIBRARY_PATH")
_SAFE_IN_A_SHELL = re.compile(r"[\w@+=:,./-]*", re.ASCII)


def run_on_hosts(
    args: NeoXArgs, hosts: Hosts, script: str, settings: str, arguments: Sequence[str], patience: Patience
) -> int:
    """Start the script on all hosts and return the exit code of the run."""
    _check_tools(args.launcher)
    port = args.master_port or DEFAULT_PORT
    first = next(iter(hosts.slots))
    if is_this_host(first):
        check_port(port)
    if args.launcher == "pdsh" and not args.no_ssh_check:
        check_reachable(list(hosts.slots))
    # Under pdsh the runner asks the first host for its address; the other launchers tell the ranks nothing.
    master_addr = args.master_addr or (None if args.launcher == "pdsh" else first)
    meeting = {"MASTER_ADDR": master_addr, "MASTER_PORT": str(port)} if master_addr else {}
    content = parcel_of(script, settings, arguments, meeting).to_bytes()
    with delivered(list(hosts.slots), content) as parcel, tempfile.TemporaryDirectory(prefix="deepy-") as folder:
        command = runner_command(
            hosts,
            Path(folder),
            launcher=args.launcher,
            master_addr=master_addr,
            master_port=port,
            parcel=parcel,
        )
        environment = runner_environment(os.environ)
        outcome = run_ranks([Rank(0, command, environment)], patience=patience, say=say)
    return _exit_code(outcome)


def runner_command(
    hosts: Hosts, folder: Path, *, launcher: str, master_addr: str | None, master_port: int, parcel: str
) -> list[str]:
    """DeepSpeed's runner with a hostfile of exactly the chosen hosts, written into folder."""
    _check_paths()
    hostfile = folder / "hostfile"
    lines = [f"{host} slots={max(slots) + 1}" for host, slots in hosts.slots.items()]
    hostfile.write_text("\n".join(lines) + "\n", encoding="ascii")
    command = [sys.executable, "-m", "deepspeed.launcher.runner", "--hostfile", str(hostfile), "--force_multi"]
    if any(slots != tuple(range(len(slots))) for slots in hosts.slots.values()):
        chosen = (f"{host}:{','.join(map(str, slots))}" for host, slots in hosts.slots.items())
        command += ["--include", "@".join(chosen)]
    command += ["--launcher", launcher, "--master_port", str(master_port)]
    if master_addr:
        command += ["--master_addr", master_addr]
    command += ["--no_ssh_check", "--no_local_rank", "--log_level", "warning"]
    return [*command, str(Path(__file__).with_name("on_host.py")), parcel]


def runner_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """Our environment for the runner, without what it would hand to a shell unquoted, and with ssh keep-alives."""
    result = {
        name: value
        for name, value in environment.items()
        if not name.startswith(_COPIED_BY_RUNNER) or _SAFE_IN_A_SHELL.fullmatch(value)
    }
    folders = environment.get("PATH", os.defpath).split(os.pathsep)
    result["PATH"] = os.pathsep.join(folder for folder in folders if _SAFE_IN_A_SHELL.fullmatch(folder))
    options = environment.get("PDSH_SSH_ARGS_APPEND", "")
    result["PDSH_SSH_ARGS_APPEND"] = f"{options} {OPTIONS}".strip()
    return result


def parcel_of(script: str, settings: str, arguments: Sequence[str], meeting: Mapping[str, str]) -> Parcel:
    """For all hosts: the allow-listed environment, the meeting point, the script and its settings."""
    variables = {**forwarded_variables(os.environ), "PYTHONPATH": python_path(os.environ), **meeting}
    return Parcel(variables, script, settings, tuple(arguments), os.getcwd())


def _check_tools(launcher: str) -> None:
    program = _PROGRAMS[launcher]
    if shutil.which(program) is None:
        hint = " (on Debian and Ubuntu: `apt install pdsh`)" if program == "pdsh" else ""
        raise SettingsError(f"launcher {launcher!r} needs the program {program!r}, which is not on PATH{hint}.")
    if importlib.util.find_spec("deepspeed") is None:
        raise SettingsError("a run on several hosts needs DeepSpeed here too: pip install -r requirements/train.txt")


def _check_paths() -> None:
    """DeepSpeed puts these three into a shell command as they are."""
    for what, path in (
        ("the current folder", os.getcwd()),
        ("the Python interpreter", sys.executable),
        ("the folder of the launcher", str(Path(__file__).parent)),
    ):
        if not _SAFE_IN_A_SHELL.fullmatch(path):
            raise SettingsError(
                f"{what} is {path!r}; for a run on several hosts its path may only hold letters, digits and _@+=:,./-"
            )


def _exit_code(outcome: Outcome) -> int:
    """pdsh -S hands on the largest exit code of the hosts; 256 - n stands for a rank killed by signal n there."""
    code = outcome.exits[0].code
    if outcome.stop_signal is not None and code in (1, 128 + outcome.stop_signal):
        say(
            f"{signal_name(outcome.stop_signal)} handed to all hosts; their ranks have 30 s to save. "
            "Whether they did stands in the log and in the save folder."
        )
        return 128 + outcome.stop_signal
    if code < 0 or code > 200:
        lost = "a host could not be reached, or its connection broke" if code == 255 else describe_code(code)
        if 200 < code < 255:
            lost = f"a rank was killed by {signal_name(256 - code)}"
        say(f"{describe_code(PEER_LOST)}: {lost}; pdsh's lines above name the host")
        return PEER_LOST
    if code:
        say(describe_code(code))
    return code

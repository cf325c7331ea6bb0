"""Runs whose ranks are started by an MPI launcher or by Slurm's srun: its command line, its signals, its exit code.

The command line is a list of words that no shell reads and that holds neither settings nor values of variables: those
travel as one variable in the launcher's own messages (`parcel.py`). `mpi_rank.py` is the other end.
"""

import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from megatron.errors import SettingsError
from megatron.launcher.exit_codes import PEER_LOST, describe_code, run_exit_code, signal_name
from megatron.launcher.exit_marks import VARIABLE as MARKS
from megatron.launcher.exit_marks import MarkReader
from megatron.launcher.hostfile import Hosts
from megatron.launcher.hosts import is_this_host
from megatron.launcher.parcel import VARIABLE as PARCEL
from megatron.launcher.parcel import parcel_of
from megatron.launcher.ports import check_port
from megatron.launcher.report import say
from megatron.launcher.spawn import Outcome, Patience, Rank, run_ranks
from megatron.launcher.ssh import delivered
from megatron.neox_arguments.arguments import NeoXArgs

DEFAULT_PORT = 29500
_OWN_CODES = (1, 2, 3, 4, 5, 6, 75)
# Linux takes no single variable of more than 131,072 bytes.
_LARGEST_WORD = 120_000


@dataclass(frozen=True)
class Kind:
    """One way of starting ranks.

    programs: names to look for, in order; sign: what --version says of the right one; host_line: for its file of hosts;
    options: before the script's words, with {file}, {ranks}, {nodes}; stop_with: the signal that reaches the ranks
    without ending the launcher; by_file: variables would show on command lines, so ssh brings a file.
    """

    programs: tuple[str, ...]
    options: tuple[str, ...]
    host_line: str = "{host}:{count}"
    sign: str = ""
    advice: str = ""
    stop_with: signal.Signals | None = signal.SIGUSR1
    by_file: bool = False


KINDS = {
    "openmpi": Kind(
        ("mpirun", "mpirun.openmpi"),
        ("-np", "{ranks}", "--hostfile", "{file}", "--map-by", "slot", "--bind-to", "none", "-x", PARCEL),
        host_line="{host} slots={count}",
        sign="Open MPI",
        advice="on Debian and Ubuntu: `apt install openmpi-bin`",
    ),
    "mpich": Kind(
        ("mpiexec", "mpiexec.hydra", "mpiexec.mpich"),
        ("-f", "{file}", "-n", "{ranks}", "-genvlist", PARCEL),
        sign="HYDRA",
        advice="on Debian and Ubuntu: `apt install mpich`",
    ),
    "impi": Kind(
        ("mpiexec.hydra", "mpirun"),
        ("-machinefile", "{file}", "-n", "{ranks}", "-genv", "I_MPI_PIN", "0", "-genvlist", PARCEL),
        sign="Intel(R) MPI",
        advice="load Intel's environment first: `source .../setvars.sh`",
    ),
    "mvapich": Kind(
        ("mpirun_rsh",),
        ("-np", "{ranks}", "-hostfile", "{file}"),
        advice="it belongs to MVAPICH2",
        stop_with=None,
        by_file=True,
    ),
    "slurm": Kind(
        ("srun",),
        (
            "--ntasks={ranks}",
            "--nodes={nodes}",
            "--distribution=arbitrary",
            "--cpu-bind=none",
            "--kill-on-bad-exit=1",
            f"--export=HOME,USER,LOGNAME,{PARCEL}",
        ),
        host_line="{host}",
        advice="it comes with Slurm; deepy.py runs inside an allocation (salloc, sbatch)",
    ),
}


def run_under_mpi(
    args: NeoXArgs, hosts: Hosts, script: str, settings: str, arguments: Sequence[str], patience: Patience
) -> int:
    """Start the script on all hosts and return the exit code of the run."""
    launcher = args.launcher
    kind = KINDS[launcher]
    program = find_program(launcher, kind)
    first, port = next(iter(hosts.slots)), args.master_port or DEFAULT_PORT
    if is_this_host(first):
        check_port(port)
    meeting = {"MASTER_ADDR": args.master_addr or first, "MASTER_PORT": str(port), MARKS: "1"}
    parcel = parcel_of(args, hosts, script, settings, arguments, meeting)
    with tempfile.TemporaryDirectory(prefix="deepy-") as folder:
        file = Path(folder, "hosts")
        file.write_text(host_lines(kind, hosts), encoding="ascii")
        if kind.by_file:
            with delivered(list(hosts.slots), parcel.to_bytes()) as path:
                words = [f"{PARCEL}_FILE={path}", *rank_words()]
                _check_for_shell([*words, os.getcwd()])
                return _run(command(kind, program, hosts, file, words), dict(os.environ), kind, patience)
        # First, because MPICH's mpiexec 4.0.2 with -genvlist never hands on the last variable of its environment.
        environment = {PARCEL: _checked_length(parcel.to_word()), **os.environ}
        if launcher == "slurm":
            environment["SLURM_HOSTFILE"] = str(file)
        return _run(command(kind, program, hosts, file, rank_words()), environment, kind, patience)


def command(kind: Kind, program: str, hosts: Hosts, file: Path, words: Sequence[str]) -> list[str]:
    """The launcher's command line for one process per slot."""
    values = {"file": str(file), "ranks": str(hosts.world_size), "nodes": str(len(hosts.slots))}
    return [program, *(option.format(**values) for option in kind.options), *words]


def host_lines(kind: Kind, hosts: Hosts) -> str:
    """The launcher's file of hosts, in the order of the ranks. srun wants a line per rank."""
    lines = []
    for host, slots in hosts.slots.items():
        line = kind.host_line.format(host=host, count=len(slots))
        lines += [line] * (1 if "{count}" in kind.host_line else len(slots))
    return "\n".join(lines) + "\n"


def rank_words() -> list[str]:
    """What the launcher runs for every rank."""
    return [sys.executable, "-u", str(Path(__file__).with_name("mpi_rank.py"))]


def find_program(launcher: str, kind: Kind) -> str:
    """The launcher's program on PATH; SettingsError when there is none, or only another MPI's of that name."""
    others = []
    for name in kind.programs:
        path = shutil.which(name)
        if path is None:
            continue
        found = _version(path) if kind.sign else ""
        if kind.sign in found:
            return path
        says = found.strip().splitlines() or ["it says nothing"]
        others.append(f"{path} is another one ({says[0]})")
    what = "; ".join(others) if others else "which is not on PATH"
    names = " or ".join(repr(name) for name in kind.programs)
    raise SettingsError(f"launcher {launcher!r} needs the program {names}, {what}: {kind.advice}.")


def _version(program: str) -> str:
    try:
        done = subprocess.run([program, "--version"], stdin=subprocess.DEVNULL, capture_output=True, timeout=60)
    except (OSError, subprocess.TimeoutExpired) as error:
        return str(error)
    return (done.stdout + done.stderr).decode(errors="replace")


def _check_for_shell(words: Sequence[str]) -> None:
    for word in words:
        if not re.fullmatch(r"[\w@+=:,./-]*", word, re.ASCII):
            raise SettingsError(
                f"this launcher hands {word!r} to a shell; the paths of the Python interpreter, this "
                "repository and the current folder may hold letters, digits and _@+=:,./- only."
            )


def _checked_length(word: str) -> str:
    if len(word) > _LARGEST_WORD:
        raise SettingsError(
            f"settings and environment take {len(word):,} characters, more than the {_LARGEST_WORD:,} that fit into "
            "one variable. Long lists of data files are shorter as one blended set (tools/datasets/merge_datasets.py)."
        )
    return word


def _run(words: list[str], environment: Mapping[str, str], kind: Kind, patience: Patience) -> int:
    """Run the launcher as our only child; its error stream passes through us for the ranks' marks."""
    reader, (read_end, write_end) = MarkReader(), os.pipe()
    relay = threading.Thread(target=_relay, args=(read_end, reader), daemon=True)
    relay.start()
    one = Rank(0, words, environment, output=(os.dup(1), write_end), stop_with=kind.stop_with)
    outcome = run_ranks([one], patience=patience, say=say)
    relay.join(timeout=10)
    return exit_code(outcome, reader)


def _relay(read_end: int, reader: MarkReader) -> None:
    with os.fdopen(read_end, "rb", buffering=0) as stream:
        while data := stream.read(65536):
            _to_user(reader.feed(data))
    _to_user(reader.end())


def _to_user(text: bytes) -> None:
    if text:
        sys.stderr.buffer.write(text)
        sys.stderr.flush()


def exit_code(outcome: Outcome, reader: MarkReader) -> int:
    """From the ranks' marks; where none tells of a fault, from the launcher's own code."""
    by_launcher = outcome.exits[0].code
    code = run_exit_code(reader.exits)
    if code == 0 and outcome.stop_signal is not None and by_launcher != 0:
        say(f"{signal_name(outcome.stop_signal)} handed on; the ranks ended before anything was saved")
        return 128 + outcome.stop_signal
    if code == 0 and by_launcher != 0:
        code = by_launcher if by_launcher in _OWN_CODES else PEER_LOST
    if code:
        say(describe_code(code))
    return code

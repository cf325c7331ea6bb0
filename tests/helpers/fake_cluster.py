"""mpirun, mpiexec, mpirun_rsh and srun without a cluster: every host is this one. (ssh and pdsh: hosts.py)

Each does with words and variables what the real one does: mpirun_rsh writes all into words for a shell, the others
start words as they are. A started process gets the variables that the real one would give it and no others. What each
was called with stands in `calls.jsonl`. `install` writes them into a folder.
"""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

_ROOT = Path(__file__).resolve().parents[2]
VERSIONS = {
    "mpirun": "mpirun (Open MPI) 4.1.4",
    "mpiexec": "HYDRA build details:\n    Version: 4.0.2",
    "mpiexec.hydra": "Intel(R) MPI Library for Linux* OS, Version 2021.9",
}
# Options that take a value, by program; all others that begin with a dash stand alone.
_WITH_VALUE = {
    "mpirun": ("-np", "--hostfile", "--map-by", "--bind-to", "-x"),
    "mpiexec": ("-f", "-n", "-genvlist"),
    "mpiexec.hydra": ("-machinefile", "-n", "-genvlist"),
    "mpirun_rsh": ("-np", "-hostfile"),
    "srun": (),
}
PROGRAMS = tuple(_WITH_VALUE)


def install(folder: Path, programs: Iterable[str] = PROGRAMS) -> Path:
    """Write the programs into `folder`/mpi and return that; put it first on PATH. Calls are noted in `folder`."""
    bin_ = folder / "mpi"
    bin_.mkdir()
    for name in programs:
        text = f"#!{sys.executable}\nimport sys\nsys.path[0] = {str(_ROOT)!r}\n"
        text += "from tests.helpers.fake_cluster import main\n"
        text += f"sys.exit(main({str(folder)!r}, {name!r}, sys.argv[1:]))\n"
        (bin_ / name).write_text(text, encoding="utf-8")
        (bin_ / name).chmod(0o755)
    return bin_


def calls(folder: Path, program: str) -> list[list[str]]:
    """The words of every call of a program so far."""
    file = folder / "calls.jsonl"
    found = [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []
    return [words for name, words in found if name == program]


def main(folder: str, name: str, words: list[str]) -> int:
    """What the program `name` does with these words; its exit code."""
    with open(Path(folder, "calls.jsonl"), "a", encoding="utf-8") as log:
        log.write(json.dumps([name, words]) + "\n")
    if words == ["--version"]:
        print(VERSIONS[name])
        return 0
    options, words = _split(name, words)
    if name == "mpirun_rsh":
        variables = [word for word in words if "=" in word and not word.startswith("/")]
        return _start_ranks(name, _hosts(options["-hostfile"]), words[len(variables) :], variables)
    if name == "srun":
        return _start_ranks(name, _hosts(os.environ["SLURM_HOSTFILE"]), words, options["--export"].split(","))
    if name == "mpirun":
        return _start_ranks(name, _hosts(options["--hostfile"]), words, [options["-x"]])
    return _start_ranks(name, _hosts(options.get("-f") or options["-machinefile"]), words, [options["-genvlist"]])


def _split(name: str, words: list[str]) -> tuple[dict[str, str], list[str]]:
    options: dict[str, str] = {}
    while words and words[0].startswith("-"):
        option, equals, value = words[0].partition("=")
        if option == "-genv":
            words = words[3:]
            continue
        takes = option in _WITH_VALUE[name] and not equals
        options[option] = words[1] if takes else value
        words = words[2 if takes else 1 :]
    return options, words


def _hosts(file: str) -> list[str]:
    """A host per rank."""
    found: list[str] = []
    for line in Path(file).read_text().splitlines():
        host, _, count = line.replace(" slots=", ":").partition(":")
        found += [host] * int(count or 1)
    return found


def _bare() -> dict[str, str]:
    """What a login through ssh gives."""
    return {"PATH": os.defpath, "HOME": os.environ["HOME"], "LANG": "C.UTF-8"}


def _shell(command: str) -> "subprocess.Popen[bytes]":
    return subprocess.Popen(["sh", "-c", command], env=_bare())


def _start_ranks(name: str, hosts: list[str], words: list[str], variables: list[str]) -> int:
    started = []
    for rank, host in enumerate(hosts):
        local, count = hosts[:rank].count(host), hosts.count(host)
        place = _place(name, rank, len(hosts), local, count)
        if name == "mpirun_rsh":
            text = " ".join([*variables, *(f"{key}={value}" for key, value in place.items()), *words])
            started.append(_shell(f"env {text}"))
            continue
        given = {key: os.environ[key] for key in variables if key in os.environ}
        started.append(subprocess.Popen(words, env={**_bare(), **given, **place}))
    return _wait(started, name)


def _place(name: str, rank: int, size: int, local: int, local_size: int) -> dict[str, str]:
    values: dict[str, Any]
    if name == "mpirun":
        values = {"RANK": rank, "SIZE": size, "LOCAL_RANK": local, "LOCAL_SIZE": local_size}
        return {f"OMPI_COMM_WORLD_{key}": str(value) for key, value in values.items()}
    if name == "mpirun_rsh":
        values = {"RANK": rank, "SIZE": size, "LOCAL_RANK": local, "LOCAL_SIZE": local_size}
        return {f"MV2_COMM_WORLD_{key}": str(value) for key, value in values.items()}
    if name == "srun":
        return {"SLURM_PROCID": str(rank), "SLURM_STEP_NUM_TASKS": str(size), "SLURM_LOCALID": str(local)}
    values = {"PMI_RANK": rank, "PMI_SIZE": size, "MPI_LOCALRANKID": local, "MPI_LOCALNRANKS": local_size}
    return {key: str(value) for key, value in values.items()}


def _wait(started: "list[subprocess.Popen[bytes]]", name: str) -> int:
    """MPICH joins the codes by OR, Open MPI takes the first that is not 0, the others the largest."""

    def forward(number: int, _: object) -> None:
        for process in started:
            process.send_signal(number)

    for number in (signal.SIGUSR1, signal.SIGTERM, signal.SIGINT):
        signal.signal(number, forward)
    codes = [process.wait() % 256 for process in started]
    if name in ("mpiexec", "mpiexec.hydra"):
        joined = 0
        for code in codes:
            joined |= code
        return joined
    return next((code for code in codes if code), 0) if name == "mpirun" else max(codes)

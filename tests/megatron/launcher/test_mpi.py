"""MPI launchers and srun: each command line, what reaches the ranks, signals, exit codes; against fakes on PATH."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from megatron.errors import SettingsError
from megatron.launcher.command_line import DeepyCommand
from megatron.launcher.exit_codes import RankExit
from megatron.launcher.exit_marks import MarkReader
from megatron.launcher.hostfile import Hosts
from megatron.launcher.launch import launch
from megatron.launcher.mpi import KINDS, command, exit_code, find_program, host_lines
from megatron.launcher.mpi_rank import place_of_rank
from megatron.launcher.parcel import VARIABLE, Parcel
from megatron.launcher.spawn import Outcome
from tests.helpers.fake_cluster import calls, install
from tests.helpers.tiny_run import LAUNCHED

REPOSITORY = Path(__file__).resolve().parents[3]
HOSTS = Hosts({"node1": (0, 1), "node2": (1, 3, 5)})
SETTINGS = {
    **LAUNCHED,
    "train_iters": 3,
    "hostfile": "hosts",
    "master_addr": "127.0.0.1",
}
PROBE = """
import os, signal, sys, time
from megatron import errors
from megatron.launcher.entry import run_main

def main():
    rank, plan = int(os.environ["RANK"]), sys.argv[3]
    if plan == "stop":
        stop = []
        signal.signal(signal.SIGUSR1, lambda *_: stop.append(1))
        print(f"ready {rank}", flush=True)
        while not stop:
            time.sleep(0.01)
        raise errors.StopRequested("saved at step 7")
    if plan == "codes":
        raise [errors.DataError, errors.PeerError][rank]("asked for")
    if plan == "kill" and rank == 1:
        os.kill(os.getpid(), signal.SIGKILL)

run_main(main)
"""


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a script, settings and a hostfile, the current one; the fake programs are first on PATH."""
    monkeypatch.setenv("PATH", f"{install(tmp_path)}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("DS_ACCELERATOR", "cpu")
    monkeypatch.setenv("PYTHONPATH", str(REPOSITORY))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "hosts").write_text("node-a slots=1\nnode-b slots=1\n")
    (tmp_path / "probe.py").write_text(PROBE)
    (tmp_path / "tiny.yml").write_text(json.dumps(SETTINGS))
    return tmp_path


@pytest.mark.parametrize(
    ("launcher", "words", "hosts"),
    [
        (
            "openmpi",
            "mpirun -np 5 --hostfile F --map-by slot --bind-to none -x DEEPY_PARCEL rank",
            "node1 slots=2\nnode2 slots=3\n",
        ),
        ("mpich", "mpiexec -f F -n 5 -genvlist DEEPY_PARCEL rank", "node1:2\nnode2:3\n"),
        (
            "impi",
            "mpiexec.hydra -machinefile F -n 5 -genv I_MPI_PIN 0 -genvlist DEEPY_PARCEL rank",
            "node1:2\nnode2:3\n",
        ),
        ("mvapich", "mpirun_rsh -np 5 -hostfile F rank", "node1:2\nnode2:3\n"),
        (
            "slurm",
            "srun --ntasks=5 --nodes=2 --distribution=arbitrary --cpu-bind=none --kill-on-bad-exit=1 "
            "--export=HOME,USER,LOGNAME,DEEPY_PARCEL rank",
            "node1\nnode1\nnode2\nnode2\nnode2\n",
        ),
    ],
)
def test_the_command_lines(launcher: str, words: str, hosts: str) -> None:
    kind = KINDS[launcher]
    assert command(kind, words.split()[0], HOSTS, Path("F"), ["rank"]) == words.split()
    assert host_lines(kind, HOSTS) == hosts


def test_the_right_mpi_is_found_among_those_of_the_same_name(cluster: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(cluster / "mpi"))
    found = {name: Path(find_program(name, KINDS[name])).name for name in KINDS}
    assert found == {
        "openmpi": "mpirun",
        "mpich": "mpiexec",
        "impi": "mpiexec.hydra",
        "mvapich": "mpirun_rsh",
        "slurm": "srun",
    }
    (cluster / "mpi" / "mpiexec").unlink()
    with pytest.raises(SettingsError, match=r"mpiexec.hydra is another one \(Intel") as caught:
        find_program("mpich", KINDS["mpich"])
    assert "apt install mpich" in str(caught.value)
    (cluster / "mpi" / "srun").unlink()
    with pytest.raises(SettingsError, match="'srun', which is not on PATH"):
        find_program("slurm", KINDS["slurm"])


@pytest.mark.multiprocess
@pytest.mark.parametrize(
    ("launcher", "plan", "code"), [("mpich", "codes", 3), ("openmpi", "kill", 6), ("slurm", "", 0)]
)
def test_exit_codes(cluster: Path, launcher: str, plan: str, code: int, capfd: pytest.CaptureFixture[str]) -> None:
    """MPICH alone would say 3 | 6 = 7."""
    asked = DeepyCommand("probe.py", ("tiny.yml",), (f"launcher={launcher}",), script_arguments=(plan,))
    assert launch(asked) == code
    assert "\x1e" not in capfd.readouterr().err, "marks are for the launcher"


@pytest.mark.multiprocess
def test_a_stop_reaches_the_ranks_as_the_signal_that_mpirun_hands_on(cluster: Path) -> None:
    words = ["deepy.py", "probe.py", "tiny.yml", "--launcher", "openmpi", "--", "stop"]
    deepy = subprocess.Popen(
        [sys.executable, str(REPOSITORY / words[0]), *words[1:]], cwd=cluster, stdout=subprocess.PIPE, text=True
    )
    assert deepy.stdout is not None
    assert {deepy.stdout.readline(), deepy.stdout.readline()} == {"ready 0\n", "ready 1\n"}
    deepy.send_signal(signal.SIGTERM)
    assert deepy.wait(timeout=600) == 75


def _outcome(code: int, stop: int | None = None) -> Outcome:
    return Outcome((RankExit(0, code, 1.0),), stop)


@pytest.mark.parametrize(
    ("codes", "launchers", "stop", "expected"),
    [
        ({}, 0, None, 0),
        ({0: 0, 1: 0}, 0, None, 0),
        ({0: 6, 1: 3}, 7, None, 3),
        ({0: 75, 1: 75}, 0, 15, 75),
        ({}, 9, None, 6),
        ({}, 137, None, 6),
        ({}, -9, None, 6),
        ({}, 3, None, 3),
        ({0: 0}, 1, 15, 143),
        ({}, 138, 15, 143),
    ],
)
def test_the_runs_code(codes: dict[int, int], launchers: int, stop: int | None, expected: int) -> None:
    reader = MarkReader()
    for rank, code in codes.items():
        reader.feed(f"\x1edeepy: rank {rank} ended with {code}\x1e\n".encode())
    assert exit_code(_outcome(launchers, stop), reader) == expected


def test_marks_are_taken_out_of_the_stream_however_it_is_cut() -> None:
    stream = b"a\n\x1edeepy: rank 10 ended with 4\x1e\nb\x1e\x1edeepy: rank 2 ended with 75\x1e\nc\x1edeepy: rank"
    for cut in range(len(stream)):
        reader = MarkReader()
        text = reader.feed(stream[:cut]) + reader.feed(stream[cut:]) + reader.end()
        assert text == b"a\nb\x1ec\x1edeepy: rank"
        assert [(one.rank, one.code) for one in reader.exits] == [(10, 4), (2, 75)]


def _parcel(**environment: str) -> Parcel:
    return Parcel(environment, "train.py", "", (), "/", (("node1", (0, 1)), ("node2", (1, 3, 5))))


def test_the_place_of_a_rank() -> None:
    inherited = {"PMI_RANK": "3", "PMI_SIZE": "5", "MPI_LOCALRANKID": "1", "RANK": "0", "WORLD_SIZE": "1", "A": "1"}
    found = place_of_rank(_parcel(A="2", MASTER_ADDR="node1"), inherited)
    wanted = {"RANK": "3", "WORLD_SIZE": "5", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "3", "MASTER_ADDR": "node1"}
    assert found.items() >= {**wanted, "A": "2"}.items()


def test_a_rank_in_another_place_or_without_one_is_refused() -> None:
    with pytest.raises(SettingsError, match="rank 3 as number 0 of its host; the hostfile means rank 3 as number 1"):
        place_of_rank(_parcel(), {"PMI_RANK": "3", "PMI_SIZE": "5", "MPI_LOCALRANKID": "0"})
    with pytest.raises(SettingsError, match="the hostfile means 5 ranks"):
        place_of_rank(_parcel(), {"PMI_RANK": "7", "PMI_SIZE": "8", "MPI_LOCALRANKID": "0"})
    with pytest.raises(SettingsError, match="gave this process no rank"):
        place_of_rank(_parcel(), {"RANK": "3", "WORLD_SIZE": "5", "LOCAL_RANK": "1"})


def test_settings_too_long_for_a_variable(cluster: Path) -> None:
    noise = "".join(chr(0x4E00 + (i * 7919) % 20000) for i in range(60_000))
    (cluster / "tiny.yml").write_text(json.dumps(SETTINGS) + f"\n# {noise}\n")
    with pytest.raises(SettingsError, match="that fit into one variable"):
        launch(DeepyCommand("probe.py", ("tiny.yml",), ("launcher=mpich",)))
    assert calls(cluster, "mpiexec") == [["--version"]]


def test_the_parcel_is_not_the_last_variable(cluster: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """MPICH 4.0.2 forgets the last one."""
    seen: list[str] = []
    monkeypatch.setattr("megatron.launcher.mpi._run", lambda words, environment, *_: seen.extend(environment) or 0)
    assert launch(DeepyCommand("probe.py", ("tiny.yml",), ("launcher=mpich",))) == 0
    assert VARIABLE in seen[:-1]

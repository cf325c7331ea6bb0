"""Runs on several hosts with an agent on each: real processes, fake `ssh` and `pdsh` (tests/helpers/hosts.py)."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.helpers.hosts import fake_programs
from tests.helpers.tiny_run import LAUNCHED

pytestmark = pytest.mark.multiprocess

ROOT = Path(__file__).resolve().parents[3]
HOSTILE = "a \"b\" 'c' $(touch hacked) `touch hacked`;touch hacked\nnew line\\ %n %h äöü"
SETTINGS = {
    **LAUNCHED,
    "data_path": HOSTILE,
    "hostfile": "hosts",
    "log_dir": "logs of the run",
}
# What each rank does stands in the script's first argument, by rank.
PROBE = """
import json, os, signal, sys, time
from megatron import errors
from megatron.launcher.entry import run_main
from megatron.launcher.failure_record import note_saved_step
from megatron.neox_arguments.cli import arguments_from_command_line

RANK = os.environ["RANK"]

def main():
    for kind, value in json.loads(sys.argv[3]).get(RANK, []):
        if kind == "tell":
            args = arguments_from_command_line(sys.argv[1:3], int(os.environ["WORLD_SIZE"]))
            found = {"environment": dict(os.environ), "data_path": args.data_path, "arguments": sys.argv[4:],
                     "load": args.load, "batch": args.derived.train_batch_size, "host": os.environ["FAKE_HOST"]}
            with open(f"found-{RANK}.json", "a") as file:
                file.write(json.dumps(found) + "\\n")
        elif kind == "await":
            while not os.path.exists(value):
                time.sleep(0.01)
        elif kind == "raise":
            raise getattr(errors, value)(f"{value} was asked for")
        elif kind == "lose":
            raise ConnectionResetError("Connection reset by peer")
        elif kind == "kill":
            os.kill(os.getpid(), value)
        elif kind == "leave" and os.environ["FAKE_HOST"] == value:
            open(f"refuses-{value}", "w").close()
            os.kill(os.getppid(), signal.SIGKILL)
            time.sleep(60)
        elif kind == "print":
            for _ in range(value):
                print("x" * 2000, flush=True)
            open("printed", "w").close()
        elif kind == "saved":
            note_saved_step(value)
        elif kind == "hang":
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            with open(f"pid-{RANK}", "w") as file:
                file.write(f"{os.getpid()} {os.getppid()}")
            open(f"ready-{RANK}", "w").close()
            time.sleep(600)
        elif kind == "wait for stop":
            stop = []
            signal.signal(signal.SIGTERM, lambda *_: stop.append(1))
            with open(f"pid-{RANK}", "w") as file:
                file.write(f"{os.getpid()} {os.getppid()}")
            print("ready", flush=True)
            open(f"ready-{RANK}", "w").close()
            while not stop:
                time.sleep(0.01)
            open(f"stopped-{RANK}", "w").close()
            raise errors.StopRequested("saved at step 7")

run_main(main)
"""


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with two hosts of one slot each, settings and a script; the current folder."""
    monkeypatch.setenv("PATH", fake_programs(tmp_path))
    monkeypatch.setenv("DS_ACCELERATOR", "cpu")
    for name in ("OMP_NUM_THREADS", "GLOO_SOCKET_IFNAME", "RANK", "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "hosts").write_text("node-a slots=1\nnode-b slots=1\n")
    (tmp_path / "tiny.yml").write_text(json.dumps(SETTINGS))
    (tmp_path / "probe.py").write_text(PROBE)
    return tmp_path


BOTH_WAIT = {"0": [["wait for stop", 0]], "1": [["wait for stop", 0]]}

# deepy.py with less patience.
DEEPY = """
import json, sys
from megatron.launcher.command_line import parse_command
from megatron.launcher.entry import run_main
from megatron.launcher.launch import launch
from megatron.launcher.spawn import Patience
patience = Patience(after_failure=1.0, before_restart=0.1, **json.loads(sys.argv[1]))
run_main(lambda: launch(parse_command(sys.argv[2:]), patience))
"""


def start(
    plan: dict, *words: str, settings: str = "", launcher: str = "ssh", **patience: float
) -> "subprocess.Popen[str]":
    command = [sys.executable, "-c", DEEPY, json.dumps(patience), "probe.py", "tiny.yml", "--launcher", launcher]
    for setting in settings.split():
        command += ["--set", setting]
    return subprocess.Popen(
        [*command, "--", json.dumps(plan), *words],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def run(plan: dict, *words: str, settings: str = "", launcher: str = "ssh") -> tuple[int, str, str]:
    """Exit code, output, errors."""
    process = start(plan, *words, settings=settings, launcher=launcher)
    output, errors = process.communicate(timeout=600)
    return process.returncode, output, errors


def wait_for(condition: Callable[[], bool], seconds: float = 300.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.05)


@pytest.mark.parametrize("launcher", ["ssh", "pdsh"])
def test_two_hosts(cluster: Path, monkeypatch: pytest.MonkeyPatch, launcher: str) -> None:
    monkeypatch.setenv("NCCL_HOSTILE", HOSTILE)
    monkeypatch.setenv("WANDB_API_KEY", "canary")
    plan = {"0": [["tell", 0]], "1": [["tell", 0], ["await", "found-0.json"], ["raise", "DataError"]]}
    code, _, errors = run(plan, "--x", HOSTILE, "in the arguments", launcher=launcher)
    assert code == 3, errors
    assert errors.count("DataError was asked for") == 1
    assert "rank 1 of 2 (host node-b, starting) failed: DataError: DataError was asked for" in errors
    for rank, host in enumerate(("node-a", "node-b")):
        found = json.loads((cluster / f"found-{rank}.json").read_text())
        environment = found["environment"]
        assert found["host"] == host
        assert (environment["RANK"], environment["LOCAL_RANK"]) == (str(rank), "0")
        assert (environment["WORLD_SIZE"], environment["LOCAL_WORLD_SIZE"]) == ("2", "1")
        assert (environment["MASTER_ADDR"], environment["GLOO_SOCKET_IFNAME"]) == ("127.0.0.1", "lo")
        assert environment["NCCL_HOSTILE"] == HOSTILE and "WANDB_API_KEY" not in environment
        assert found["data_path"] == HOSTILE and found["arguments"] == ["--x", HOSTILE, "in the arguments"]
    assert not list(cluster.glob("hacked*")), "a shell has run a part of an argument"
    asked = [json.loads(line) for line in (cluster / "ssh.jsonl").read_text().splitlines()]
    assert sorted(host for host, _, _ in asked) == ["node-a", "node-b"]
    assert "BatchMode=yes" in asked[0][1] and "ServerAliveInterval=5" in asked[0][1]
    assert "in the arguments" not in json.dumps(asked)
    assert (cluster / "pdsh.jsonl").exists() == (launcher == "pdsh")


def test_what_the_ranks_print_is_named_and_kept(cluster: Path) -> None:
    code, output, errors = run({"0": [["wait for stop", 0]], "1": [["await", "ready-0"], ["lose", 0]]})
    assert code == 6, errors
    assert "node-a rank 0: ready\n" in output
    logs = cluster / "logs of the run" / "output"
    assert (logs / "node-a.log").read_text().startswith("rank 0: ready\n")
    assert (logs / "node-a-rank-00000.log").read_text().startswith("ready\n")
    assert "lost contact with another rank" in errors


def test_every_host_that_does_not_answer_is_named_and_nothing_starts(cluster: Path) -> None:
    (cluster / "hosts").write_text("node-a slots=1\nnode-b slots=1\nnode-c slots=2\n")
    for host in ("node-b", "node-c"):
        (cluster / f"refuses-{host}").touch()
    code, _, errors = run({"0": [["tell", 0]]})
    assert code == 2, errors
    assert "node-b: Permission denied" in errors and "node-c: Permission denied" in errors
    assert "  node-a: " not in errors and "ssh HOST true" in errors
    assert not (cluster / "found-0.json").exists()


def test_hosts_of_different_sizes_and_a_choice_of_their_slots(cluster: Path) -> None:
    (cluster / "hosts").write_text("node-a slots=1\nnode-b slots=4\nnode-c slots=2\n")
    plan = {str(rank): [["tell", 0]] for rank in range(4)}
    code, _, errors = run(plan, settings="pipe_parallel_size=4 num_layers=4 include=node-b:0,1,3@node-c:1")
    assert code == 0, errors
    found = [json.loads((cluster / f"found-{rank}.json").read_text()) for rank in range(4)]
    assert [one["host"] for one in found] == ["node-b", "node-b", "node-b", "node-c"]
    names = ("LOCAL_RANK", "LOCAL_WORLD_SIZE", "WORLD_SIZE")
    places = [[one["environment"][name] for name in names] for one in found]
    assert places == [["0", "3", "4"], ["1", "3", "4"], ["2", "3", "4"], ["0", "1", "4"]]


def test_a_port_in_use_on_the_first_host(cluster: Path) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        code, _, errors = run({"0": [["tell", 0]]}, settings=f"master_port={port}")
    assert code == 2, errors
    assert f"node-a: master_port {port} is already in use" in errors
    assert not (cluster / "found-0.json").exists()


def test_one_machine_under_two_names(cluster: Path) -> None:
    for host in ("node-a", "node-b"):
        (cluster / f"address-{host}").write_text("10.1.2.3")
    code, _, errors = run({"0": [["tell", 0]]})
    assert code == 2, errors
    assert "node-a and node-b are the same machine" in errors and "10.1.2.3" in errors
    assert not (cluster / "found-0.json").exists()


def test_a_stop_while_a_host_has_not_answered(cluster: Path) -> None:
    (cluster / "cut-node-b").touch()
    process = start(BOTH_WAIT)
    wait_for(lambda: Path("ssh.jsonl").exists() and Path("ssh.jsonl").read_text().count("\n") == 2)
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=600)
    assert process.returncode == 128 + signal.SIGTERM, errors
    assert "before anything was saved" in errors
    assert not (cluster / "ready-0").exists()


@pytest.mark.parametrize(("number", "to_all"), [(signal.SIGTERM, "SIGTERM"), (signal.SIGHUP, "SIGTERM")])
def test_a_stop_reaches_the_ranks_of_every_host(cluster: Path, number: int, to_all: str) -> None:
    process = start({"0": [["wait for stop", 0]], "1": [["wait for stop", 0]]})
    assert process.stdout is not None
    lines = sorted(process.stdout.readline() for _ in range(2))
    assert lines == ["node-a rank 0: ready\n", "node-b rank 1: ready\n"]
    process.send_signal(number)
    _, errors = process.communicate(timeout=600)
    assert process.returncode == 75, errors
    assert f"{to_all} passed on to 2 hosts" in errors and errors.count("saved at step 7") == 1


def pids(*ranks: int) -> dict[str, int]:
    """The processes of these ranks and of their hosts' agents, once the ranks are ready."""
    wait_for(lambda: all(Path(f"ready-{rank}").exists() for rank in ranks))
    found = {rank: Path(f"pid-{rank}").read_text().split() for rank in ranks}
    return {f"{name} {rank}": int(pair[n]) for rank, pair in found.items() for n, name in enumerate(("rank", "agent"))}


def is_there(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_a_killed_launcher_leaves_nobody_and_the_ranks_save(cluster: Path) -> None:
    process = start(BOTH_WAIT)
    processes = pids(0, 1)
    process.kill()
    process.communicate()
    wait_for(lambda: not any(map(is_there, processes.values())))
    assert (cluster / "stopped-0").exists() and (cluster / "stopped-1").exists()
    assert "the connection to the launching machine has ended" in "".join(
        file.read_text() for file in (cluster / "logs of the run" / "output").iterdir()
    )


def test_a_killed_agent_takes_its_ranks_along_and_ends_the_run(cluster: Path) -> None:
    process = start(BOTH_WAIT)
    processes = pids(0, 1)
    os.kill(processes["agent 1"], signal.SIGKILL)
    _, errors = process.communicate(timeout=600)
    assert process.returncode == 6, errors
    assert "(host node-b) failed: host lost: its agent was killed or the connection broke" in errors
    assert not any(map(is_there, processes.values()))


def test_a_broken_connection_is_a_lost_host_also_when_the_others_save_and_stop(cluster: Path) -> None:
    """The host that is cut off stops the run; that the others follow it is no stop that anybody asked for."""
    process = start({**BOTH_WAIT, "0": [["await", "stopped-1"], ["raise", "StopRequested"]]})
    processes = pids(1)
    [ssh] = [pid for host, _, pid in map(json.loads, Path("ssh.jsonl").read_text().splitlines()) if host == "node-b"]
    os.kill(ssh, signal.SIGKILL)
    _, errors = process.communicate(timeout=600)
    assert process.returncode == 6, errors
    assert "(host node-b) failed: host lost" in errors
    wait_for(lambda: not any(map(is_there, processes.values())))
    assert (cluster / "stopped-1").exists()


@pytest.mark.slow
def test_a_cut_link_is_noticed_on_both_sides(cluster: Path) -> None:
    """And nothing is started again before the host that is cut off, which may still save, has surely ended."""
    (cluster / "hosts").write_text("node-a slots=1\nnode-b slots=2\n")
    stages = "pipe_parallel_size=3 num_layers=3"
    process = start(
        {**BOTH_WAIT, "2": [["hang", 0]]},
        settings=f"{stages} max_restarts=1 save=kept checkpoint_factor=5",
        silence=15.0,
        after_silence=12.0,
    )
    processes = pids(0, 1, 2)
    (cluster / "refuses-node-b").touch()
    (cluster / "cut-node-b").touch()
    assert process.stderr is not None
    errors = ""
    while "no answer from these hosts" not in errors:
        line = process.stderr.readline()
        assert line, errors
        errors += line
    assert not any(map(is_there, processes.values())), "one that does not save is killed"
    assert (cluster / "stopped-1").exists(), "the host that is cut off stops by itself"
    assert process.wait(90) == 6
    assert "(host node-b) failed: host lost: nothing heard from it for 15 s" in errors
    said = (cluster / "logs of the run" / "output" / "node-b-rank-00001.log").read_text()
    assert "nothing heard from the launching machine for 15 s; the ranks have 12 s to save and end" in said


@pytest.mark.slow
def test_a_paused_terminal_does_not_end_the_run(cluster: Path) -> None:
    """Nobody reads deepy.py's output for longer than the limit of silence; 6 MB wait to be shown."""
    process = start({"0": [["print", 3000]], "1": [["await", "read at last"]]}, silence=12.0)
    wait_for(lambda: Path("printed").exists())
    time.sleep(20)
    Path("read at last").touch()
    output, errors = process.communicate(timeout=90)
    assert process.returncode == 0, errors
    assert output.count("node-a rank 0: ") == 3000


def test_a_restart_goes_on_from_what_any_host_has_saved(cluster: Path) -> None:
    plan = {"1": [["tell", 0], ["saved", 4], ["kill", 9]]}
    code, _, errors = run(plan, settings="max_restarts=1 save=kept checkpoint_factor=5")
    assert code == 6, errors
    assert "restart 1 of 1 from step 4" in errors
    loads = [json.loads(line)["load"] for line in (cluster / "found-1.json").read_text().splitlines()]
    assert loads == [None, "kept"]


def test_a_restart_goes_on_with_the_hosts_that_answer(cluster: Path) -> None:
    """The batch of 30 = 5 x 6 ranks becomes 1 x 6 accumulated x 5 ranks."""
    (cluster / "hosts").write_text("node-a slots=2\nnode-b slots=1\nnode-c slots=3\n")
    lost = [["tell", 0], ["await", "found-0.json"], ["leave", "node-b"]]
    plan = {"0": [["tell", 0]], "2": lost}
    sizes = "pipe_parallel_size=1 train_batch_size=30 train_micro_batch_size_per_gpu=5"
    code, _, errors = run(plan, settings=f"{sizes} max_restarts=3 min_hosts=2")
    assert code == 0, errors
    assert "no answer from these hosts:" in errors and "node-b: Permission denied" in errors
    assert "going on with node-a, node-c: 5 ranks instead of 6" in errors
    first, second = map(json.loads, (cluster / "found-0.json").read_text().splitlines())
    assert (first["environment"]["WORLD_SIZE"], second["environment"]["WORLD_SIZE"]) == ("6", "5")
    assert (first["batch"], second["batch"]) == (30, 30)


def test_a_restart_without_a_host_says_what_would_do(cluster: Path) -> None:
    plan = {"1": [["leave", "node-b"]]}
    code, _, errors = run(plan, settings="max_restarts=3 min_hosts=1")
    assert code == 6, errors
    assert "1 of 2 hosts answer (node-a), with 1 ranks" in errors
    assert "a copy of the model takes 2 ranks" in errors and "would do, in the order of the hostfile: 2." in errors
    assert "3 crashes in a row without a new checkpoint" in errors

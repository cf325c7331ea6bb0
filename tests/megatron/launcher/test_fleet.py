"""Runs on several hosts with an agent on each: real processes, fake `ssh` and `pdsh` (tests/helpers/hosts.py)."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.helpers.hosts import fake_programs

pytestmark = pytest.mark.multiprocess

ROOT = Path(__file__).resolve().parents[3]
HOSTILE = "a \"b\" 'c' $(touch hacked) `touch hacked`;touch hacked\nnew line\\ %n %h äöü"
SETTINGS = {
    "pipe_parallel_size": 2,
    "num_layers": 2,
    "hidden_size": 64,
    "num_attention_heads": 4,
    "seq_length": 64,
    "max_position_embeddings": 64,
    "train_iters": 10,
    "train_micro_batch_size_per_gpu": 2,
    "optimizer": {"type": "Adam", "params": {"lr": 0.001}},
    "separator_token_ids": [1, 2],
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
        elif kind == "saved":
            note_saved_step(value)
        elif kind == "wait for stop":
            stop = []
            signal.signal(signal.SIGTERM, lambda *_: stop.append(1))
            with open(f"pid-{RANK}", "w") as file:
                file.write(str(os.getpid()))
            print("ready", flush=True)
            open(f"ready-{RANK}", "w").close()
            while not stop:
                time.sleep(0.01)
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


def start(plan: dict, *words: str, settings: str = "", launcher: str = "ssh") -> "subprocess.Popen[str]":
    command = [sys.executable, str(ROOT / "deepy.py"), "probe.py", "tiny.yml", "--launcher", launcher]
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
    output, errors = process.communicate(timeout=120)
    return process.returncode, output, errors


def wait_for(condition: Callable[[], bool], seconds: float = 90.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.05)


@pytest.mark.parametrize("launcher", ["ssh", "pdsh"])
def test_two_hosts(cluster: Path, monkeypatch: pytest.MonkeyPatch, launcher: str) -> None:
    monkeypatch.setenv("NCCL_HOSTILE", HOSTILE)
    monkeypatch.setenv("WANDB_API_KEY", "canary")
    plan = {"0": [["tell", 0]], "1": [["tell", 0], ["raise", "DataError"]]}
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


@pytest.mark.parametrize(("number", "to_all"), [(signal.SIGTERM, "SIGTERM"), (signal.SIGHUP, "SIGTERM")])
def test_a_stop_reaches_the_ranks_of_every_host(cluster: Path, number: int, to_all: str) -> None:
    process = start({"0": [["wait for stop", 0]], "1": [["wait for stop", 0]]})
    assert process.stdout is not None
    lines = sorted(process.stdout.readline() for _ in range(2))
    assert lines == ["node-a rank 0: ready\n", "node-b rank 1: ready\n"]
    process.send_signal(number)
    _, errors = process.communicate(timeout=90)
    assert process.returncode == 75, errors
    assert f"{to_all} passed on to 2 hosts" in errors and errors.count("saved at step 7") == 1

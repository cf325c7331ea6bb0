"""deepy.py from the outside: real launches of small scripts without torch."""

import json
import os
import re
import resource
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tests.helpers.tiny_run import LAUNCHED

REPOSITORY = Path(__file__).resolve().parents[1]
SETTINGS = {
    **LAUNCHED,
    "tokenizer_type": "CharLevelTokenizer",
}
SCRIPT = """
import json, os, signal, sys, time
from megatron import errors
from megatron.launcher.entry import run_main
from megatron.neox_arguments.cli import arguments_from_command_line

RANK = int(os.environ["RANK"])

def main():
    plan, *rest = sys.argv[3:]
    for step in json.loads(plan).get(str(RANK), []):
        kind, value = step
        if kind == "print":
            print(value, flush=True)
        elif kind == "environment":
            print(json.dumps({name: os.environ.get(name) for name in value}), flush=True)
        elif kind == "settings":
            args = arguments_from_command_line(sys.argv[1:3], int(os.environ["WORLD_SIZE"]))
            print(json.dumps([args.derived.world_size, args.data_path, args.texts, rest]), flush=True)
        elif kind == "raise":
            raise getattr(errors, value)(f"{value} was asked for")
        elif kind == "lose":
            raise ConnectionResetError("Connection reset by peer")
        elif kind == "kill":
            os.kill(os.getpid(), value)
        elif kind == "sign":
            open(value, "w").close()
        elif kind == "await":
            while not os.path.exists(value):
                time.sleep(0.01)
            time.sleep(0.3)
        elif kind == "wait for stop":
            stop = []
            signal.signal(signal.SIGTERM, lambda *_: stop.append(1))
            print("ready", flush=True)
            while not stop:
                time.sleep(0.01)
            raise errors.StopRequested("saved at step 7")

run_main(main)
"""
# One rank gives a sign and goes on; another waits for it, and a little longer.
SIGN, AWAIT = ["sign", "sign"], ["await", "sign"]


@pytest.fixture
def settings(tmp_path: Path) -> Path:
    file = tmp_path / "tiny.yml"
    file.write_text(json.dumps(SETTINGS))
    (tmp_path / "probe.py").write_text(SCRIPT)
    return file


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """A machine of two cores or more, no accelerator, no cluster."""
    dropped = ("DLTS_HOSTFILE", "RANK", "WORLD_SIZE", "OMP_NUM_THREADS", "GLOO_SOCKET_IFNAME")
    return {**{k: v for k, v in os.environ.items() if k not in dropped}, "DS_ACCELERATOR": "cpu"}


def deepy(environment: dict[str, str], folder: Path, *arguments: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, str(REPOSITORY / "deepy.py"), *arguments],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=600,
    )


def probe(environment: dict[str, str], folder: Path, plan: dict, *options: str) -> "subprocess.CompletedProcess[str]":
    return deepy(environment, folder, "probe.py", "tiny.yml", "--num_gpus", "2", *options, "--", json.dumps(plan))


def test_help_is_quick_and_names_the_exit_codes(environment: dict[str, str], tmp_path: Path) -> None:
    before = children_seconds()
    result = deepy(environment, tmp_path, "--help")
    assert children_seconds() - before < 1.5  # 0.07 s where it was measured; torch alone takes 1.7 s there
    assert result.returncode == 0
    assert "--check" in result.stdout and "75" in result.stdout


def children_seconds() -> float:
    """Processor time of all processes that have ended; unlike the clock it does not measure the others here."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def test_check_prints_the_settings_without_torch_or_a_gpu(environment: dict[str, str], settings: Path) -> None:
    code = """
import sys
sys.argv = ["deepy.py", "--check", "train.py", "tiny.yml", "--set", "train_iters=77"]
import deepy
code = deepy.main()
heavy = {"torch", "deepspeed", "transformers", "numpy"} & set(sys.modules)
sys.exit(f"imported {heavy}" if heavy else code)
"""
    result = subprocess.run(
        [sys.executable, "-c", code],
        cwd=settings.parent,
        env={**environment, "PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert result.returncode == 0, result.stderr
    assert re.search(r"train_iters +77 ", result.stdout)
    assert "tiny.yml:1" in result.stdout
    assert "on this host with 2 ranks" in result.stdout


def test_check_lists_all_errors_and_starts_nothing(environment: dict[str, str], settings: Path) -> None:
    result = deepy(
        environment,
        settings.parent,
        "train.py",
        "tiny.yml",
        "--set",
        "hidden_sise=3",
        "--check",
        "--set=num_layers=two",
    )
    assert result.returncode == 2
    assert "hidden_size" in result.stderr and "'two'" in result.stderr
    assert "Traceback" not in result.stderr


def test_check_away_from_the_cluster(environment: dict[str, str], settings: Path) -> None:
    result = deepy(environment, settings.parent, "--check", "train.py", "tiny.yml", "-H", "/cluster/hosts")
    assert result.returncode == 0, result.stderr
    assert "/cluster/hosts is not on this machine" in result.stdout
    result = deepy(environment, settings.parent, "train.py", "tiny.yml", "-H", "/cluster/hosts", "--set=hidden_sise=1")
    assert result.returncode == 2
    assert "/cluster/hosts cannot be read" in result.stderr and "hidden_size" in result.stderr


@pytest.mark.multiprocess
def test_ranks_get_their_place_and_the_settings_unchanged(environment: dict[str, str], settings: Path) -> None:
    hostile = "a \"b\" 'c' $(touch hacked) `touch hacked`\nnew line; \\ %n äöü"
    (settings.parent / "tiny.yml").write_text(json.dumps({**SETTINGS, "data_path": hostile}) + "\n# $(x) 'y'\n")
    names = ["RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT", "OMP_NUM_THREADS"]
    plan = {
        "0": [["environment", names], ["settings", None], SIGN],
        "1": [AWAIT, ["environment", names]],
    }
    result = probe(environment, settings.parent, plan, "--set", "train_iters=3")
    assert result.returncode == 0, result.stderr
    first, known, second = map(json.loads, result.stdout.splitlines())
    assert (first["RANK"], second["RANK"], second["LOCAL_RANK"]) == ("0", "1", "1")
    assert first["WORLD_SIZE"] == second["LOCAL_WORLD_SIZE"] == "2"
    assert first["MASTER_PORT"] == second["MASTER_PORT"] and int(first["MASTER_PORT"]) > 0
    assert first["OMP_NUM_THREADS"] == str(max(1, len(os.sched_getaffinity(0)) // 2))
    assert known[:2] == [2, hostile]
    assert known[2] == [["tiny.yml", settings.read_text()]]
    assert not (settings.parent / "hacked").exists()


@pytest.mark.multiprocess
@pytest.mark.parametrize(
    ("plan", "code", "text"),
    [
        ({"0": [["raise", "DataError"]], "1": [["raise", "DataError"]]}, 3, "all 2 ranks alike"),
        (
            {"1": [SIGN, ["raise", "CheckpointError"]], "0": [AWAIT, ["lose", 0]]},
            4,
            "rank 1 is the cause",
        ),
        (
            {"0": [SIGN, ["kill", 9]], "1": [AWAIT, ["lose", 0]]},
            6,
            "rank 0 of 2 ended: killed by SIGKILL",
        ),
        ({"1": [SIGN, ["raise", "NoSuchError"]], "0": [AWAIT, ["lose", 0]]}, 1, "AttributeError"),
        (
            {"1": [SIGN, ["raise", "StopRequested"]], "0": [AWAIT, ["raise", "StopRequested"]]},
            75,
            "queue the same",
        ),
    ],
)
def test_the_exit_code_and_the_words(
    environment: dict[str, str], settings: Path, plan: dict, code: int, text: str
) -> None:
    result = probe(environment, settings.parent, plan)
    assert result.returncode == code, result.stderr
    assert text in result.stderr
    assert result.stderr.count("was asked for") <= 1, "one fault of all ranks is told once"


@pytest.mark.multiprocess
def test_sigterm_to_deepy_saves_and_gives_75(environment: dict[str, str], settings: Path) -> None:
    plan = json.dumps({"0": [["wait for stop", 0]], "1": [["wait for stop", 0]]})
    process = subprocess.Popen(
        [sys.executable, str(REPOSITORY / "deepy.py"), "probe.py", "tiny.yml", "--", plan],
        cwd=settings.parent,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert [process.stdout.readline(), process.stdout.readline()] == ["ready\n", "ready\n"]
    process.send_signal(signal.SIGTERM)
    _, words = process.communicate(timeout=600)
    assert process.returncode == 75, words
    assert "SIGTERM passed on" in words and "saved at step 7" in words


def test_a_port_in_use(environment: dict[str, str], settings: Path) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        result = probe(environment, settings.parent, {"0": [["print", "started"]]}, "--master_port", str(port))
    assert result.returncode == 2
    assert f"master_port {port} is already in use" in result.stderr
    assert "started" not in result.stdout


def test_more_ranks_than_the_host_has(environment: dict[str, str], settings: Path) -> None:
    count = 2 * (os.cpu_count() or 1)
    sizes = ("--set", f"pipe_parallel_size={count}", "--set", f"num_layers={count}")
    result = deepy(environment, settings.parent, "probe.py", "tiny.yml", *sizes)
    assert result.returncode == 2
    assert f"ask for {count} ranks" in result.stderr and f"num_gpus: {count}" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (("trian.py", "tiny.yml"), "Did you mean 'train.py'?"),
        ((), "For example: python deepy.py train.py configs/"),
        (("tiny.yml",), "expected a script"),
        (("tiny.yml", "other.yml"), "For example: python deepy.py train.py tiny.yml other.yml"),
        (("train", "tiny.yml"), "Did you mean 'train.py'?"),
        (("preflihgt", "tiny.yml"), "Did you mean 'preflight'?"),
        (("train.py", "tiny.yml", "--num_gpus", "two"), "--num_gpus: expected a whole number, got 'two'"),
        (("train.py",), "No settings file"),
        (("train.py", "tiny.yml", "--chek"), "'--check'"),
        (("train.py", "tiny.yml", "--num_gpus", "many"), "'many'"),
        (("train.py", "tiny.yaml"), "Did you mean 'tiny.yml'?"),
    ],
)
def test_a_wrong_command_line(environment: dict[str, str], settings: Path, arguments: tuple, text: str) -> None:
    result = deepy(environment, settings.parent, *arguments)
    assert result.returncode == 2
    assert text in result.stderr and "Traceback" not in result.stderr


def test_evaluation_and_generation_are_one_process(environment: dict[str, str], settings: Path) -> None:
    result = deepy(environment, settings.parent, "--check", "generate.py", "tiny.yml")
    assert "generate.py would start on this host with 1 rank." in result.stdout

"""Secrets in the environment during real training: not in the arguments of any process, in no file, in no output."""

import hashlib
import os
import secrets
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.helpers.fake_cluster import install
from tests.helpers.hosts import fake_programs
from tests.helpers.tiny_run import tiny_settings, write_settings, write_tiny_data

ROOT = Path(__file__).resolve().parents[2]
NAMES = [
    "HF_TOKEN",
    "WANDB_API_KEY",
    "COMET_API_KEY",
    "AWS_ACCESS_KEY_ID",
    "AWS_SECRET_ACCESS_KEY",
    "GITHUB_TOKEN",
    "MY_PASSWORD",
]
# Trains, then does what careless code does with a key that it was given.
CARELESS = """
import hashlib, importlib.util, os
from megatron.launcher.entry import run_main
from megatron.monitor.logger import get_logger

spec = importlib.util.spec_from_file_location("real_train", {train!r})
real = importlib.util.module_from_spec(spec)
spec.loader.exec_module(real)

def main():
    token = os.environ["HF_TOKEN"]
    with open("got-" + os.environ["RANK"], "w") as file:
        file.write(hashlib.sha256(token.encode()).hexdigest() + " ".join(os.environ))
    real.main()
    get_logger("careless").warning("logging in with %s", token)
    raise RuntimeError("no answer from https://me:" + token + "@example.org")

run_main(main)
"""


class ProcessList(threading.Thread):
    """Reads the arguments of every process again and again, as anybody on a machine may, and counts canaries."""

    def __init__(self, canaries: list[str]) -> None:
        super().__init__(daemon=True)
        self.canaries, self.over = [canary.encode() for canary in canaries], threading.Event()
        self.seen: set[bytes] = set()
        self.rounds = 0

    def run(self) -> None:
        while not self.over.is_set():
            for path in Path("/proc").glob("[0-9]*/cmdline"):
                try:
                    words = path.read_bytes()
                except OSError:
                    continue
                self.seen.update(canary for canary in self.canaries if canary in words)
            self.rounds += 1
            self.over.wait(0.02)

    def __enter__(self) -> "ProcessList":
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.over.set()
        self.join()


@pytest.mark.slow
@pytest.mark.multiprocess
@pytest.mark.skipif(not Path("/proc/self/cmdline").exists(), reason="no /proc to read arguments from")
@pytest.mark.parametrize("launcher", ["pdsh", "openmpi", "slurm"])
def test_no_secret_leaves_the_environment(tmp_path: Path, score: Callable[..., None], launcher: str) -> None:
    values = {name: f"canary-{number}-{secrets.token_hex(8)}" for number, name in enumerate(NAMES)}
    (tmp_path / "tmp").mkdir()
    (tmp_path / "hosts").write_text("node-a slots=1\nnode-b slots=1\n")
    (tmp_path / "train.py").write_text(CARELESS.format(train=str(ROOT / "train.py")))
    settings = tiny_settings(
        write_tiny_data(tmp_path / "data"),
        num_layers=2,
        prefill_loc_win_size_list=[8, 8],
        train_iters=2,
        checkpoint_factor=2,
        eval_iters=1,
        save=str(tmp_path / "save"),
        log_dir=str(tmp_path / "logs"),
        hostfile="hosts",
        launcher=launcher,
        master_addr="127.0.0.1",
        forward_environment=["HF_TOKEN"],
    )
    write_settings(tmp_path / "a.yml", settings)
    environment = {**os.environ, **values, "DS_ACCELERATOR": "cpu", "GLOO_SOCKET_IFNAME": "lo", "OMP_NUM_THREADS": "1"}
    environment |= {"TMPDIR": str(tmp_path / "tmp"), "PYTHONPATH": str(ROOT)}
    environment["PATH"] = f"{install(tmp_path)}{os.pathsep}{fake_programs(tmp_path)}"

    def deepy(*words: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, str(ROOT / "deepy.py"), *words]
        return subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=600)

    with ProcessList(list(values.values())) as watched:
        run = deepy("train.py", "a.yml")
        report = deepy("report", "save", "--out", "report.html")
    output = run.stdout + run.stderr + report.stdout + report.stderr
    assert run.returncode == 1 and "https://<hidden>@example.org" in output, output
    assert "logging in with <HF_TOKEN>" in output
    assert (tmp_path / "save" / "global_step2").is_dir() and (tmp_path / "report.html").exists(), output
    for rank in (0, 1):
        got = (tmp_path / f"got-{rank}").read_text()
        assert got.startswith(hashlib.sha256(values["HF_TOKEN"].encode()).hexdigest()), "the named one was forwarded"
        assert not [name for name in NAMES[1:] if name in got], "only the named one was"
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    held = 0
    for value in values.values():
        assert [str(path) for path in files if value.encode() in path.read_bytes()] == []
        assert value not in output
        assert value.encode() not in watched.seen
        held += 3
    assert watched.rounds > 10 and len(files) > 10
    score("S31", held, 3 * len(values), naive(("HF_TOKEN", values["HF_TOKEN"])))


def naive(secret: tuple[str, str]) -> str:
    """As DeepSpeed's and many other launchers forward variables."""
    with ProcessList([secret[1]]) as watched:
        shell = subprocess.Popen(["sh", "-c", f"export {secret[0]}={secret[1]}; read wait"], stdin=subprocess.PIPE)
        while not watched.seen and watched.rounds < 1000:
            pass
        shell.communicate()
    assert watched.seen == {secret[1].encode()}
    return "`export NAME=VALUE` in a remote command is in the list of processes"

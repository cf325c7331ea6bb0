"""Run a test function on several real processes, as a launcher would, and collect what each returns.

The processes are forked from one that has imported the libraries already: a rank then starts in milliseconds.
"""

import atexit
import contextlib
import importlib.util
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from megatron.launcher.ports import free_port

ROOT = Path(__file__).resolve().parents[2]


def run_ranks(function: Callable[..., Any], world_size: int, *args: Any, timeout: float = 900.0) -> list[Any]:
    """Call function(*args) on world_size processes; return their results by rank.

    function: at the top level of its file; it is imported anew in each process and meets the others itself,
    through RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR and MASTER_PORT. args and results must be JSON-able.
    When a rank fails or the time is over all are ended, and AssertionError carries the ranks' last lines.
    """
    with tempfile.TemporaryDirectory() as folder:
        task = Path(folder, "task.json")
        task.write_text(json.dumps({"file": function.__code__.co_filename, "name": function.__name__, "args": args}))
        port = free_port()
        ranks = [_start(rank, world_size, port, task) for rank in range(world_size)]
        try:
            _wait(ranks, timeout, Path(folder))
        finally:
            for process in ranks:
                process.end()
        return [json.loads(Path(folder, f"result-{rank}.json").read_text()) for rank in range(world_size)]


@dataclass
class Rank:
    """A forked process, a child of the nursery. code: its exit code once it has ended, negative for a signal."""

    pid: int
    code: int | None = None

    def poll(self) -> int | None:
        if self.code is None:
            self.code = _ask("poll", self.pid)
        return self.code

    def end(self) -> None:
        """Kill it if it still runs, and wait for its end."""
        while self.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL)
            time.sleep(0.01)


def _start(rank: int, world_size: int, port: int, task: Path) -> Rank:
    environment = _environment() | {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(world_size),
        "LOCAL_WORLD_SIZE": str(world_size),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
    }
    return Rank(_ask("start", environment, str(task), str(task.parent / f"output-{rank}.txt")))


def _environment() -> dict[str, str]:
    return {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "CUDA_VISIBLE_DEVICES": "",
        "DS_ACCELERATOR": "cpu",
        "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]),
    }


@cache
def _nursery() -> subprocess.Popen[str]:
    """The process that ranks are forked from; it lives as long as the one that asks."""
    process = subprocess.Popen(
        [sys.executable, __file__],
        env=_environment(),
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    atexit.register(process.kill)
    return process


def _ask(*request: Any) -> Any:
    nursery = _nursery()
    assert nursery.stdin is not None and nursery.stdout is not None
    nursery.stdin.write(json.dumps(request) + "\n")
    nursery.stdin.flush()
    return json.loads(nursery.stdout.readline())


def _serve() -> None:
    """The nursery: import what ranks need, then fork and look after them, a request a line."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print at import is no answer
    import megatron.inference.load
    import megatron.training.pretrain  # noqa: F401 - both for what they bring along

    for line in sys.stdin:
        what, *arguments = json.loads(line)
        answer = _fork(*arguments) if what == "start" else _exit_code(*arguments)
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


def _fork(environment: dict[str, str], task: str, output: str) -> int:
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        os.environ.clear()
        os.environ.update(environment)
        to = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(to, 1)
        os.dup2(to, 2)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        _run_task(Path(task))
        code = 0
    except SystemExit as ended:
        code = ended.code if isinstance(ended.code, int) else int(ended.code is not None)
    except BaseException:
        traceback.print_exc()
    with contextlib.suppress(Exception):
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(code)


def _exit_code(pid: int) -> int | None:
    ended, status = os.waitpid(pid, os.WNOHANG)
    return os.waitstatus_to_exitcode(status) if ended else None


def _wait(ranks: list[Rank], timeout: float, folder: Path) -> None:
    end = time.monotonic() + timeout
    while any(process.poll() is None for process in ranks):
        if any(process.poll() for process in ranks):
            time.sleep(1.0)  # the others may have their own word to say about it
            break
        assert time.monotonic() < end, f"not finished within {timeout:.0f} s\n{_last_lines(ranks, folder)}"
        time.sleep(0.02)
    failed = {rank: process.poll() for rank, process in enumerate(ranks) if process.poll() != 0}
    assert not failed, f"exit codes by rank (None = ended by us): {failed}\n{_last_lines(ranks, folder)}"


def _last_lines(ranks: list[Rank], folder: Path) -> str:
    parts = []
    for rank in range(len(ranks)):
        lines = (folder / f"output-{rank}.txt").read_text(errors="replace").splitlines()[-40:]
        parts.append(f"--- rank {rank} ---\n" + "\n".join(lines))
    return "\n".join(parts)


def _run_task(task: Path) -> None:
    work = json.loads(task.read_text())
    spec = importlib.util.spec_from_file_location("rank_program", work["file"])
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["rank_program"] = module
    spec.loader.exec_module(module)
    result = getattr(module, work["name"])(*work["args"])
    (task.parent / f"result-{os.environ['RANK']}.json").write_text(json.dumps(result))
    from megatron.mpu.parallel_state import leave_parallel

    leave_parallel()


if __name__ == "__main__":
    _serve()

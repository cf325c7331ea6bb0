"""Run a test function on several real processes, as a launcher would, and collect what each returns."""

import importlib.util
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]


def run_ranks(function: Callable[..., Any], world_size: int, *args: Any, timeout: float = 180.0) -> list[Any]:
    """Call function(*args) on world_size processes; return their results by rank.

    function: at the top level of its file; it is imported anew in each process and meets the others itself,
    through RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR and MASTER_PORT. args and results must be JSON-able.
    When a rank fails or the time is over all are ended, and AssertionError carries the ranks' last lines.
    """
    with tempfile.TemporaryDirectory() as folder:
        task = Path(folder, "task.json")
        task.write_text(json.dumps({"file": function.__code__.co_filename, "name": function.__name__, "args": args}))
        port = _free_port()
        ranks = [_start(rank, world_size, port, task) for rank in range(world_size)]
        try:
            _wait(ranks, timeout, Path(folder))
        finally:
            for process in ranks:
                if process.poll() is None:
                    process.kill()
                process.wait()
        return [json.loads(Path(folder, f"result-{rank}.json").read_text()) for rank in range(world_size)]


def _start(rank: int, world_size: int, port: int, task: Path) -> subprocess.Popen:
    environment = {
        **os.environ,
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(world_size),
        "LOCAL_WORLD_SIZE": str(world_size),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "OMP_NUM_THREADS": "1",
        "CUDA_VISIBLE_DEVICES": "",
        "DS_ACCELERATOR": "cpu",
        "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]),
    }
    with open(task.parent / f"output-{rank}.txt", "w") as output:
        return subprocess.Popen(
            [sys.executable, __file__, str(task)],
            env=environment, cwd=ROOT, stdout=output, stderr=subprocess.STDOUT,
        )  # fmt: skip


def _wait(ranks: list[subprocess.Popen], timeout: float, folder: Path) -> None:
    end = time.monotonic() + timeout
    while any(process.poll() is None for process in ranks):
        if any(process.poll() for process in ranks):
            time.sleep(1.0)  # the others may have their own word to say about it
            break
        assert time.monotonic() < end, f"not finished within {timeout:.0f} s\n{_last_lines(ranks, folder)}"
        time.sleep(0.02)
    failed = {rank: process.poll() for rank, process in enumerate(ranks) if process.poll() != 0}
    assert not failed, f"exit codes by rank (None = ended by us): {failed}\n{_last_lines(ranks, folder)}"


def _last_lines(ranks: list[subprocess.Popen], folder: Path) -> str:
    parts = []
    for rank in range(len(ranks)):
        lines = (folder / f"output-{rank}.txt").read_text(errors="replace").splitlines()[-40:]
        parts.append(f"--- rank {rank} ---\n" + "\n".join(lines))
    return "\n".join(parts)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


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
    _run_task(Path(sys.argv[1]))

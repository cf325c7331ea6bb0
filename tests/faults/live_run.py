"""A training run started as a user starts it, with a planted fault, and what is left of it afterwards."""

import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

from tests.helpers.tiny_run import tiny_settings, write_settings

ROOT = Path(__file__).resolve().parents[2]
FAULTY = "tests/faults/faulty/train.py"
START = "from megatron.launcher.command_line import parse_command; from megatron.launcher.launch import launch; "
START += "from megatron.launcher.spawn import Patience; from megatron.launcher.entry import run_main; import sys; "
START += "run_main(lambda: launch(parse_command(sys.argv[1:]), Patience(before_restart=0.2)))"


class LiveRun:
    """Two ranks under deepy.py. fault: see faulty/train.py; its moment is when the sign file appears."""

    def __init__(
        self, folder: Path, data: Path, fault: str = "", *, quick_restarts: bool = False, **changes: Any
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self.save, self.sign = folder, Path(changes.pop("save", folder / "run")), folder / "sign"
        settings = {
            "train_iters": 300, "save": str(self.save), "checkpoint_factor": 2, "num_gpus": 2,
            "keep_last_n_checkpoints": 2, "eval_interval": 2, "eval_iters": 1,
        }  # fmt: skip
        config = write_settings(folder / "config.yml", tiny_settings(data, **{**settings, **changes}))
        script = FAULTY if fault else "train.py"
        start = ["-c", START] if quick_restarts else ["deepy.py"]
        fault = fault.removesuffix("SIGN") + str(self.sign) if fault.endswith("SIGN") else fault
        output = os.open(folder / "output.txt", os.O_WRONLY | os.O_CREAT)
        self.noted = threading.Event()
        self.started = time.time()
        self.process = subprocess.Popen(
            [sys.executable, *start, script, str(config)],
            cwd=ROOT,
            env={**os.environ, "OMP_NUM_THREADS": "1", "FAULT": fault, "DS_ACCELERATOR": "cpu"},
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        os.close(output)
        threading.Thread(target=self._note_the_end, daemon=True).start()

    def _note_the_end(self) -> None:
        self.process.wait()
        self.ended = time.time()
        self.noted.set()

    def events(self, kind: str) -> list[dict[str, Any]]:
        path = self.save / "events.jsonl"
        lines = path.read_text().splitlines() if path.exists() else []
        return [event for line in lines if (event := json.loads(line))["kind"] == kind]

    def wait_for_step(self, step: int, timeout: float = 600) -> None:
        deadline = time.monotonic() + timeout
        while not any(event["iteration"] >= step for event in self.events("step")):
            assert self.process.poll() is None and time.monotonic() < deadline, self.output()
            time.sleep(0.05)

    def ranks(self) -> dict[int, int]:
        """Rank -> process id, of the launcher's children."""
        found = {}
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                try:
                    parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
                    variables = (entry / "environ").read_bytes().split(b"\0") if parent == self.process.pid else []
                except OSError:
                    continue
                ranks = [int(variable[5:]) for variable in variables if variable.startswith(b"RANK=")]
                found.update(dict.fromkeys(ranks, int(entry.name)))
        return found

    def end(self, timeout: float = 600) -> int:
        """Wait for the launcher; its exit code. Everything is killed when it does not end."""
        ended = self.noted.wait(timeout)
        if not ended:
            self.process.kill()
        code = self.process.wait()
        assert ended, f"still running after {timeout} s\n{self.output()}"
        return code

    def seconds(self) -> float:
        """From start to end, also where it was asked for later."""
        return self.ended - self.started

    def seconds_after_fault(self) -> float:
        return self.ended - self.sign.stat().st_mtime

    def silence(self) -> float:
        """Seconds without a sign of life when a rank's watchdog spoke, by its own clock."""
        [noted] = self.folder.glob("sign.silence-*")
        return float(noted.read_text())

    def output(self) -> str:
        return (self.folder / "output.txt").read_text(errors="replace")[-20_000:]

    def orphans(self, patience: float = 30) -> list[str]:
        """Processes anywhere whose environment or command line names this run's folder, and that stay."""
        deadline = time.monotonic() + patience  # what was killed may not have had its turn to vanish yet
        while (found := self._processes()) and time.monotonic() < deadline:
            time.sleep(0.05)
        return found

    def _processes(self) -> list[str]:
        mark, found = str(self.folder).encode(), []
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit() and int(entry.name) != os.getpid():
                try:
                    if mark in (entry / "environ").read_bytes() or mark in (entry / "cmdline").read_bytes():
                        found.append(f"{entry.name}: {(entry / 'cmdline').read_bytes()[:200]!r}")
                except OSError:
                    continue
        return found

"""train.py with a fault: the variable FAULT says which rank does what to itself or the launcher, and when.

FAULT = "RANK,PHASE,STEP,ACTION[,FILE]": at the STEP-th step or later, when the rank's place begins with PHASE, once.
ACTION: a signal to itself (SIGKILL, SIGSTOP, ...), launcher:SIGTERM, or raise. FILE: made just before, and if it is
there already, nothing happens. FILE.silence-RANK: how long a rank had been silent when its watchdog spoke.
"""

import os
import signal
import sys
from pathlib import Path
from typing import NoReturn

sys.path.insert(0, str(Path(__file__).resolve().parents[3]))
from megatron.launcher import place
from megatron.launcher.entry import run_main
from megatron.training.watchdog import Watchdog
from train import main

rank, phase, step, action, *files = os.environ["FAULT"].split(",")
real_at, real_expire = place.at, Watchdog._expire
done: list[bool] = []


def at(what: str, number: int | None = None) -> None:
    real_at(what, number)
    if done or os.environ["RANK"] != rank or not what.startswith(phase) or (place._step or 0) < int(step):
        return
    done.append(True)
    for file in files:
        if Path(file).exists():
            return
        Path(file).touch()
    if action == "raise":
        raise RuntimeError("planted by the test")
    to_launcher = action.startswith("launcher:")
    for name in action.removeprefix("launcher:").split("+"):
        os.kill(os.getppid() if to_launcher else os.getpid(), signal.Signals[name])


def expire(watchdog: Watchdog) -> NoReturn:
    for file in files:
        Path(f"{file}.silence-{os.environ['RANK']}").write_text(str(place.silent_for()))
    real_expire(watchdog)


place.at = at
Watchdog._expire = expire  # type: ignore[method-assign]

if __name__ == "__main__":
    run_main(main)

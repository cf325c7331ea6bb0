"""train.py that waits at a planned moment: the host's file /run/fault says "PHASE,STEP" of its first rank.

There it makes /run/reached and stays until /run/go appears, so that the fault strikes in the middle of that phase.
"""

import os
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[3]))
from megatron.launcher import place
from megatron.launcher.entry import run_main
from train import main

real_at = place.at
plan = Path("/run/fault")
phase, step = plan.read_text().split(",") if plan.exists() else ("never", "0")


def at(what: str, number: int | None = None) -> None:
    real_at(what, number)
    reached = Path("/run/reached")
    if os.environ["LOCAL_RANK"] != "0" or not what.startswith(phase) or (place._step or 0) < int(step):
        return
    if not reached.exists():
        reached.touch()
        while not Path("/run/go").exists():
            time.sleep(0.02)


place.at = at

if __name__ == "__main__":
    run_main(main)

"""The checks that start the run's own ranks, through the launcher: a collective, and one training step."""

import contextlib
import json
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from megatron.launcher.environment import repository_root
from megatron.preflight.on_ranks import MARK
from megatron.preflight.result import Result, failed, passed, skipped
from megatron.preflight.site import Site
from megatron.preflight.smaller import Trial
from megatron.preflight.text import bytes_text, counted

COLLECTIVE, STEP = "collective", "step"
_TO_END = 8.0  # seconds that the launcher has to end its ranks when the time is up
_FOUND = re.compile(re.escape(MARK) + r"(\{.*\})")
_LAST_WORDS = 3
# A trial loads nothing, writes nothing, and tells nobody.
_NO_TRACE = (
    "save=null",
    "load=null",
    "warm_start=null",
    "warm_start_fresh=null",
    "finetune=false",
    "auto_resume=false",
    "log_dir=null",
    "tensorboard_dir=null",
    "use_wandb=false",
    "use_comet=false",
    "max_restarts=0",
)


@dataclass(frozen=True)
class _Ended:
    """How the ranks ended. code: None when they had to be ended; words: the launcher's last lines."""

    code: int | None
    words: str


def rank_checks(site: Site, trial: Trial | str, seconds: float) -> Iterator[Result]:
    """Both checks from one start of the ranks. trial: what the step trains, or why there is to be none."""
    found: dict[str, Any] = {}
    start = time.monotonic()
    ended = _run(_command(site, trial, seconds), seconds, found)
    took = time.monotonic() - start
    yield _collective(found.get(COLLECTIVE), ended, took)
    if isinstance(trial, str):
        yield skipped(STEP, trial)
    elif COLLECTIVE not in found:
        yield skipped(STEP, "the ranks did not meet")
    else:
        yield _step(found.get(STEP), trial, ended, took)


def _collective(found: dict[str, Any] | None, ended: _Ended, took: float) -> Result:
    if found is None:
        return _not_reached(
            COLLECTIVE,
            ended,
            took,
            "The ranks did not all meet. Their own words stand above; NCCL_DEBUG=INFO says more.",
        )
    ranks = found["ranks"]
    if ranks == 1:
        return passed(COLLECTIVE, "one rank: nothing to exchange")
    places = counted(len(set(found["hosts"])), "host")
    return passed(
        COLLECTIVE,
        f"{ranks} ranks on {places} sum {bytes_text(found['bytes'])} over "
        f"{found['backend']} in {1000 * found['seconds']:.1f} ms: {bytes_text(found['bandwidth'])}/s a rank",
    )


def _step(found: dict[str, Any] | None, trial: Trial, ended: _Ended, took: float) -> Result:
    if found is None:
        return _not_reached(STEP, ended, took, f"Tried: {trial.words}.")
    return passed(
        STEP,
        f"{trial.words}: loss {found['loss']:.4f} in {found['seconds']:.1f} s, after {found['start_seconds']:.1f} s to "
        f"build; peak {bytes_text(found['memory'])} on rank 0",
    )


def _not_reached(name: str, ended: _Ended, took: float, advice: str) -> Result:
    if ended.code is None:
        found = f"not done after {took:.0f} s, so it was ended"
        return failed(name, f"{found}\n{ended.words}".rstrip(), f"{advice}\nMore time: --limit SECONDS.", 6)
    return failed(name, ended.words or f"the ranks ended with exit code {ended.code}", advice, ended.code or 1)


def _command(site: Site, trial: Trial | str, seconds: float) -> list[str]:
    """deepy.py with our script in place of train.py."""
    given = site.command
    overrides = [*given.overrides, *_NO_TRACE, f"timeout_minutes={max(seconds, 1) / 60:.4f}"]
    overrides += trial.overrides if isinstance(trial, Trial) else ()
    command = [sys.executable, str(repository_root() / "deepy.py"), str(Path(__file__).with_name("on_ranks.py"))]
    command += [*given.files, *(["-d", given.folder] if given.folder else [])]
    command += [word for override in overrides for word in ("--set", override)]
    return [*command, *(["--", "--no-step"] if isinstance(trial, str) else [])]


def _run(command: Sequence[str], seconds: float, found: dict[str, Any]) -> _Ended:
    """Run it for at most `seconds`; what rank 0 says goes into `found` as it comes."""
    launcher = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
        start_new_session=True,
        env={**os.environ, "PYTHONWARNINGS": os.environ.get("PYTHONWARNINGS", "ignore")},
    )
    said: list[str] = []
    readers = [
        threading.Thread(target=_read_found, args=(launcher.stdout, found), daemon=True),
        threading.Thread(target=lambda: said.extend(launcher.stderr or ()), daemon=True),
    ]
    for reader in readers:
        reader.start()
    code: int | None = None
    try:
        code = launcher.wait(timeout=seconds)
    except subprocess.TimeoutExpired:
        launcher.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            launcher.wait(timeout=_TO_END)
    finally:
        if launcher.poll() is None:
            launcher.kill()  # its guard ends the ranks
            launcher.wait()
    for reader in readers:
        reader.join(timeout=1)
    return _Ended(code, _last_words(said))


def _read_found(stream: Any, found: dict[str, Any]) -> None:
    for line in stream:
        match = _FOUND.search(line)  # a remote shell puts the host's name in front
        if match:
            with contextlib.suppress(ValueError):
                found.update(json.loads(match[1]))


def _last_words(said: Sequence[str]) -> str:
    """The launcher's own lines if it spoke, else the last ones of anybody."""
    lines = [line.strip() for line in said if line.strip()]
    own = [line.removeprefix("deepy: ") for line in lines if line.startswith("deepy: ")]
    return "\n".join(own or lines[-_LAST_WORDS:])

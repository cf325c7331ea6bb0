"""The one process of ours on each host of a run on several: starts and watches that host's ranks.

ssh runs it as `python -m megatron.launcher.agent`; it talks to the launching machine (fleet.py) over standard input
and output. Ranks, signals, patience and exit codes are those of a run on one host. When the launching machine is gone
the ranks are asked to save and end, and killed when they take too long.
"""

import os
import signal
import socket
import sys
import tempfile
import threading
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from megatron.errors import SettingsError, UserError
from megatron.launcher.exit_codes import PEER_LOST, RankExit, run_exit_code
from megatron.launcher.failure_record import read_record, read_saved_step, seconds_ago
from megatron.launcher.hosts import check_capacity
from megatron.launcher.local import Work, local_ranks
from megatron.launcher.meeting import meeting_address, meeting_port
from megatron.launcher.rank_output import RankOutput
from megatron.launcher.spawn import DEFAULT_PATIENCE, FORWARDED_SIGNALS, Patience, run_ranks
from megatron.launcher.uplink import LauncherGone, Uplink

_BEAT_SECONDS = 1.0


def main() -> int:
    for name in FORWARDED_SIGNALS:  # what we are told to pass on must not be ignored because our starter ignored it
        signal.signal(getattr(signal, name), signal.SIG_DFL)
    uplink = Uplink(DEFAULT_PATIENCE.silence)
    uplink.send(hello={"host": socket.gethostname(), "address": _reached_at()})
    try:
        plan = uplink.next("prepare")
        patience = Patience(**plan["patience"])
        uplink.silence = patience.silence
        meeting = _prepare(plan)
        output = RankOutput(_log_files(plan))
        uplink.send(ready=meeting)
        return _Watch(uplink, patience, output).run(plan, uplink.next("go"))
    except LauncherGone as gone:
        print(f"agent: {gone}", file=sys.stderr)
        return PEER_LOST
    except UserError as error:
        uplink.send(failed={"code": error.exit_code, "kind": type(error).__name__, "message": str(error)})
        return error.exit_code


def _prepare(plan: dict[str, Any]) -> dict[str, Any]:
    """Take over folder and environment, check what this host is asked for; where the ranks meet, on the first host."""
    try:
        os.chdir(plan["folder"])
    except OSError as error:
        raise SettingsError(
            f"the folder {plan['folder']} cannot be entered here: {error.strerror}; a run on several hosts needs it "
            "under the same path on each."
        ) from None
    os.environ.update(plan["environment"])
    script = plan["work"]["script"]
    if not Path(script).is_file():
        raise SettingsError(f"{script} is not on this host; the same path is needed on each.")
    check_capacity(tuple(plan["slots"]), plan["num_gpus"], plan["hostfile"])
    if plan["meeting"] is None:
        return {}
    wanted = plan["meeting"]
    return {
        "address": meeting_address(plan["name"], _reached_at(), wanted["towards"]),
        "port": meeting_port(wanted["port"]),
    }


def _log_files(plan: dict[str, Any]) -> list[Path]:
    if plan["logs"] is None:
        return []
    ranks = range(plan["first_rank"], plan["first_rank"] + len(plan["slots"]))
    return [Path(plan["logs"]) / f"{plan['name']}-rank-{rank:05d}.log" for rank in ranks]


def _reached_at() -> str:
    """This host's address on the connection that started us; empty when sshd does not say."""
    words = os.environ.get("SSH_CONNECTION", "").split()
    return words[2] if len(words) == 4 else ""


class _Watch:
    """The ranks' time: what they print and how they end goes up, signals come down."""

    def __init__(self, uplink: Uplink, patience: Patience, output: RankOutput) -> None:
        self._uplink, self._patience, self._output = uplink, patience, output
        self._over = threading.Event()

    def run(self, plan: dict[str, Any], meeting: dict[str, Any]) -> int:
        """Exit code of this host's ranks together."""
        first, slots = plan["first_rank"], tuple(plan["slots"])
        with tempfile.TemporaryDirectory(prefix="deepy-") as folder:
            self._folder = Path(folder)
            ranks = local_ranks(
                Work(**plan["work"]).command(folder),
                slots,
                master_addr=meeting["master_addr"],
                master_port=meeting["master_port"],
                failure_folder=folder,
                first_rank=first,
                world_size=meeting["world_size"],
                outputs=self._output.pipes(len(slots)),
            )

            def on_exit(exit_: RankExit) -> None:
                self._output.drain(exit_.rank - first)
                self._tell_exit(exit_)

            outcome = run_ranks(
                ranks,
                patience=self._patience,
                on_exit=on_exit,
                say=lambda text: self._uplink.send(say=text),
                on_start=lambda hurry: self._start_threads(hurry, first),
            )
            self._over.set()
            self._output.close()
            self._uplink.send(beat=read_saved_step(self._folder))
        self._uplink.send(end=True)
        self._uplink.close()
        return run_exit_code(outcome.exits)

    def _start_threads(self, hurry: Callable[[float], None], first_rank: int) -> None:
        self._uplink.start()
        self._output.start(lambda rank, stream, text: self._tell_lines(first_rank + rank, stream, text))
        threading.Thread(target=self._beat, daemon=True).start()
        threading.Thread(target=self._listen, args=(hurry,), daemon=True).start()

    def _tell_lines(self, rank: int, stream: int, text: str) -> None:
        self._uplink.wait_for_room()
        self._uplink.send(lines=text, rank=rank, stream=stream)

    def _tell_exit(self, exit_: RankExit) -> None:
        record = read_record(self._folder, exit_.rank)
        told = None if record is None else {**asdict(record), "seconds": seconds_ago(record)}
        self._uplink.send(exit=asdict(exit_), record=told)

    def _beat(self) -> None:
        """A sign of life each second, with the newest checkpoint that the ranks here have told of."""
        while not self._over.wait(_BEAT_SECONDS):
            self._uplink.send(beat=read_saved_step(self._folder))

    def _listen(self, hurry: Callable[[float], None]) -> None:
        try:
            for frame in self._uplink.receive():
                if "signal" in frame:
                    self._pass_on(signal.Signals[frame["signal"]])
                elif "hurry" in frame:
                    hurry(frame["hurry"])
        except LauncherGone as gone:
            self._uplink.give_up()
            seconds = self._patience.after_silence
            self._output.note(f"agent: {gone}; the ranks have {seconds:.0f} s to save and end")
            hurry(seconds)
            self._pass_on(signal.SIGTERM)

    def _pass_on(self, number: signal.Signals) -> None:
        """As if it had been sent to this process: run_ranks hands it to every rank here."""
        if not self._over.is_set():
            os.kill(os.getpid(), number)


if __name__ == "__main__":
    sys.exit(main())

"""What the user reads when ranks end: which one failed first, how, and what its last words mean."""

import sys
from pathlib import Path

from megatron.launcher.exit_codes import PEER_LOST, STOPPED, RankExit, causing_exit, describe_code, run_exit_code
from megatron.launcher.failure_record import FailureRecord, read_record
from megatron.launcher.spawn import Outcome
from megatron.neox_arguments.secrets import hide


def say(text: str) -> None:
    """A line of the launcher itself, told apart from the ranks' lines by its name; one write."""
    sys.stderr.write("".join(f"deepy: {line}\n" for line in hide(text).splitlines()))
    sys.stderr.flush()


class Report:
    """Prints each different message once while ranks end, and the closing line of the run."""

    def __init__(self, world_size: int, folder: Path) -> None:
        self._world_size = world_size
        self._folder = folder
        self._said: set[str] = set()
        self.cause = ""  # the first message that a rank left

    def on_exit(self, exit_: RankExit) -> None:
        """A rank has ended."""
        if exit_.code == 0 or exit_.ended_by_us:
            return
        record = read_record(self._folder, exit_.rank)
        text = self._last_words(exit_, record)
        if text not in self._said:
            self._said.add(text)
            self.cause = self.cause or f"rank {exit_.rank} {_whereabouts(record)}{text}"
            # A lost connection is news only if it comes first: later it is the echo of another rank's end.
            if exit_.code == PEER_LOST and len(self._said) > 1:
                say(f"rank {exit_.rank} then lost its peers")
            else:
                say(f"rank {exit_.rank} of {self._world_size} {_whereabouts(record)}{text}")

    def close(self, outcome: Outcome, start: float) -> int:
        """The closing line; returns the exit code of the run. start: time.monotonic() when the ranks started."""
        exits = [self._at_time_of_failure(exit_, start) for exit_ in outcome.exits]
        cause = causing_exit(exits)
        code = run_exit_code(exits)
        if cause is None:
            return 0
        if code == STOPPED:
            say(describe_code(code))
        elif outcome.stop_signal is not None and code == 128 + outcome.stop_signal:
            say(f"stopped by the signal before anything was saved (exit code {code})")
        elif cause.ended_by_us:
            say(f"{describe_code(code)}: no rank ended in time")
        elif self._world_size == 1:
            say(describe_code(code))
        elif cause.code == PEER_LOST and (hung := [str(exit_.rank) for exit_ in exits if exit_.ended_by_us]):
            say(f"{describe_code(code)}: rank {', '.join(hung)} hung and had to be killed")
        elif sum(exit_.code == cause.code and not exit_.ended_by_us for exit_ in exits) == self._world_size:
            say(f"{describe_code(code)}: all {self._world_size} ranks alike")
        else:
            say(f"{describe_code(code)}: rank {cause.rank} is the cause, {cause.seconds:.1f} s after the start")
        return code

    def _last_words(self, exit_: RankExit, record: FailureRecord | None) -> str:
        if record is None or record.code != exit_.code:
            return f"ended: {describe_code(exit_.code)}"
        if not record.message:
            return f"ended: {record.kind}, {describe_code(exit_.code)}"
        if exit_.code == STOPPED:
            return f"stopped: {record.message}"
        return f"failed: {record.kind}: {record.message}"

    def _at_time_of_failure(self, exit_: RankExit, start: float) -> RankExit:
        """The record is written when the error is raised; a process may take seconds more to end."""
        record = read_record(self._folder, exit_.rank)
        if record is None or exit_.ended_by_us:
            return exit_
        return RankExit(exit_.rank, exit_.code, max(0.0, record.seconds - start))


def _whereabouts(record: FailureRecord | None) -> str:
    if record is None:
        return ""
    return f"(host {record.host}, {record.place}) " if record.place else f"(host {record.host}) "

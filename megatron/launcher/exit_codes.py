"""What each exit code means, and which one of a run's many exit codes is the run's own."""

import signal
from collections.abc import Sequence
from dataclasses import dataclass

STOPPED = 75
PEER_LOST = 6

_MEANINGS = {
    0: "finished",
    1: "unexpected error; the traceback stands above",
    2: "usage or settings",
    3: "data",
    4: "checkpoint",
    5: "numbers (NaN or divergence)",
    PEER_LOST: "a rank or host was lost or hangs",
    STOPPED: "stopped on request after a save; queue the same command again",
    130: "interrupted from the keyboard",
}

_SIGNAL_ADVICE = {
    "SIGKILL": "nobody here sent it: often the kernel was out of memory (see `dmesg | tail`), or a scheduler's limit",
    "SIGSEGV": "a crash inside native code; its last lines stand above",
    "SIGBUS": "a memory-mapped file became shorter while it was read, or shared memory is full (`df -h /dev/shm`)",
    "SIGABRT": "a native library gave up; its last lines stand above",
    "SIGILL": "the machine lacks an instruction that a library was built for",
    "SIGTERM": "someone stopped this rank alone",
}


@dataclass(frozen=True)
class RankExit:
    """How one rank ended. code < 0: killed by that signal. seconds: since the start, for the order of events."""

    rank: int
    code: int
    seconds: float
    ended_by_us: bool = False


def describe_code(code: int) -> str:
    """'exit code 3 (data)', or 'killed by SIGSEGV (a crash ...)' for a negative code."""
    if code < 0:
        name = signal_name(-code)
        advice = _SIGNAL_ADVICE.get(name)
        return f"killed by {name}" + (f" ({advice})" if advice else "")
    meaning = _MEANINGS.get(code)
    return f"exit code {code}" + (f" ({meaning})" if meaning else "")


def signal_name(number: int) -> str:
    """15 -> 'SIGTERM'; an unknown number comes back as 'signal 99'."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def causing_exit(exits: Sequence[RankExit]) -> RankExit | None:
    """The rank whose end explains the run's end, or None when every rank finished.

    A rank that names a fault of settings, data, checkpoint or numbers (2-5) explains more than one that stopped as
    asked (75), that one more than a rank killed from outside, whose peers may report its loss (6) before we see it
    gone. Among the rest the first is the cause. Ranks that we ended ourselves explain nothing unless nobody else does.
    """
    failed = [one for one in exits if one.code != 0]
    own = [one for one in failed if not one.ended_by_us] or failed
    return min(own, key=lambda one: (_weight(one.code), one.seconds, one.rank), default=None)


def run_exit_code(exits: Sequence[RankExit]) -> int:
    """The exit code of the whole run; a rank killed by a signal counts as a lost peer (6)."""
    cause = causing_exit(exits)
    if cause is None:
        return 0
    return PEER_LOST if cause.code < 0 else cause.code


def _weight(code: int) -> int:
    if code in (2, 3, 4, 5):
        return 0
    if code == STOPPED:
        return 1
    # NCCL ends a process by SIGABRT when it has lost a peer: an echo, like 6.
    return 2 if code < 0 and code != -signal.SIGABRT else 3

"""Runs the ranks of one host as processes, passes signals on, and leaves nobody behind.

Each rank gets a session of its own: a Ctrl-C reaches the launcher alone, which passes it on, and the whole process
group of a rank can be ended without touching anything else on the machine. The ranks write to our own output.
"""

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import FrameType

from megatron.launcher.exit_codes import PEER_LOST, STOPPED, RankExit
from megatron.launcher.parent_death import Guard, die_with_parent

FORWARDED_SIGNALS = ("SIGINT", "SIGTERM", "SIGUSR1", "SIGHUP")
_POLL_SECONDS = 0.02


@dataclass(frozen=True)
class Rank:
    """One process to start: its global rank, its argument list, its whole environment.

    output: file descriptors for its standard output and errors, closed here once it has them; None: it writes to ours.
    stop_with: the signal it gets in place of SIGTERM and SIGINT.
    """

    rank: int
    command: Sequence[str]
    environment: Mapping[str, str]
    output: tuple[int, int] | None = None
    stop_with: int | None = None


@dataclass(frozen=True)
class Patience:
    """Seconds that ranks get to end by themselves: after another one failed, after a stop was passed on.

    after_lost_peer: after one that has lost another or waited in vain for it; what hangs then has hung for long.
    before_restart: the first pause before a crashed run is started again.
    silence: how long the launching machine and a host may hear nothing of each other (several hosts).
    after_silence: what the ranks of a host get to save and end when its launching machine is gone.
    """

    after_failure: float = 5.0
    after_lost_peer: float = 2.0
    after_stop: float = 300.0
    for_stacks: float = 0.5
    before_restart: float = 5.0
    silence: float = 30.0
    after_silence: float = 60.0

    def after(self, code: int) -> float | None:
        """Seconds that the other ranks get when one has ended with this code; None: they go on."""
        if code == STOPPED:
            return self.after_stop
        if code == PEER_LOST:
            return min(self.after_lost_peer, self.after_failure)
        return self.after_failure if code else None


DEFAULT_PATIENCE = Patience()


@dataclass(frozen=True)
class Outcome:
    """How every rank ended, in the order of their ends, and the last signal that was passed on."""

    exits: tuple[RankExit, ...]
    stop_signal: int | None = None


def run_ranks(
    ranks: Sequence[Rank],
    *,
    patience: Patience = DEFAULT_PATIENCE,
    on_exit: Callable[[RankExit], None] = lambda _: None,
    say: Callable[[str], None] = lambda _: None,
    on_start: Callable[[Callable[[float], None]], None] = lambda _: None,
) -> Outcome:
    """Start all ranks, wait for them, end those that do not follow a failed or stopped one.

    on_exit is called for each rank as it ends; say gets lines for the user. on_start is called once all have been
    started, with a function that gives them no more than so many seconds from now on. Standard input goes to rank 0
    alone.
    """
    return _Host(patience, on_exit, say, on_start).run(ranks)


class _Host:
    """The ranks that are alive, and since when we wait for them."""

    def __init__(
        self,
        patience: Patience,
        on_exit: Callable[[RankExit], None],
        say: Callable[[str], None],
        on_start: Callable[[Callable[[float], None]], None],
    ) -> None:
        self.patience, self.on_exit, self.say, self.on_start = patience, on_exit, say, on_start
        self.alive: dict[int, subprocess.Popen[bytes]] = {}
        self.exits: list[RankExit] = []
        self.deadline: float | None = None
        self.stop_signal: int | None = None
        self.interrupts = 0
        self.stop_with: dict[int, int] = {}
        self.ended_by_us = False

    def run(self, ranks: Sequence[Rank]) -> Outcome:
        guard = None
        with signals_handled(self._pass_on):
            try:
                self.start = time.monotonic()
                self.stop_with = {one.rank: one.stop_with for one in ranks if one.stop_with is not None}
                for one in ranks:
                    self.alive[one.rank] = _start(one)
                groups = [process.pid for process in self.alive.values()]
                guard = Guard(groups)
                if self.stop_signal is not None:  # it came while we were starting: the last ranks missed it
                    self._send(self.stop_signal)
                self.on_start(self._hurry)
                self._wait()
            finally:
                self._kill_all()
                if guard is not None:
                    guard.dismiss()
        return Outcome(tuple(self.exits), self.stop_signal)

    def _wait(self) -> None:
        while self.alive:
            self._collect()
            # A third interrupt may come in the middle of the second one's _hurry(), which then overwrites its deadline.
            at_once = self.interrupts >= 3
            if self.alive and (at_once or (self.deadline is not None and time.monotonic() >= self.deadline)):
                self._end_the_rest()
            time.sleep(_POLL_SECONDS)

    def _collect(self) -> None:
        for rank, process in list(self.alive.items()):
            code = process.poll()
            if code is None:
                continue
            del self.alive[rank]
            _kill_group(process.pid)  # helper processes that the rank left behind
            exit_ = RankExit(rank, self._meaning(code), time.monotonic() - self.start, self.ended_by_us)
            self.exits.append(exit_)
            self.on_exit(exit_)
            seconds = self.patience.after(exit_.code)
            if seconds is not None:
                self._hurry(seconds)

    def _meaning(self, code: int) -> int:
        """A rank without a handler of its own dies of the signal we passed on: the shell's 128 + n, not a fault."""
        return 128 - code if self.stop_signal is not None and code == -self.stop_signal else code

    def _hurry(self, seconds: float) -> None:
        deadline = time.monotonic() + seconds
        self.deadline = deadline if self.deadline is None else min(self.deadline, deadline)

    def _end_the_rest(self) -> None:
        names = ", ".join(str(rank) for rank in sorted(self.alive))
        self.say(f"rank {names} did not end by itself; its stacks follow if it can print them, then it is killed")
        self._send(signal.SIGUSR2)
        self.ended_by_us = True
        time.sleep(self.patience.for_stacks)
        self._kill_all()
        self._collect()

    def _kill_all(self) -> None:
        """SIGKILL to the group of every rank that is still there, and wait until the kernel has taken it."""
        for process in self.alive.values():
            _kill_group(process.pid)
        for process in self.alive.values():
            process.wait()

    def _pass_on(self, number: int, _: FrameType | None) -> None:
        number = signal.SIGTERM if number == signal.SIGHUP else number
        self.stop_signal = number
        self.interrupts += number == signal.SIGINT
        if self.interrupts >= 3:
            self.say("interrupted three times: ending the ranks now, without a save")
            self.deadline = time.monotonic()
            return
        if self.interrupts == 2:
            self.say("still stopping; a third Ctrl-C ends the ranks at once, without a save")
        self._send(number)
        if self.interrupts < 2:
            name = signal.Signals(number).name
            ranks = f"{len(self.alive)} rank{'s' * (len(self.alive) != 1)}"
            self.say(f"{name} passed on to {ranks}; waiting for them to save and end")
        self._hurry(self.patience.after_stop)

    def _send(self, number: int) -> None:
        for rank, process in self.alive.items():
            own = self.stop_with.get(rank, number) if number in (signal.SIGTERM, signal.SIGINT) else number
            with contextlib.suppress(ProcessLookupError):
                process.send_signal(own)


@contextlib.contextmanager
def signals_handled(handler: Callable[[int, FrameType | None], None]) -> Iterator[None]:
    """Our handler while ranks run. A signal that was ignored before (nohup) stays ignored."""
    before = {}
    for name in FORWARDED_SIGNALS:
        number = getattr(signal, name, None)
        if number is None or signal.getsignal(number) == signal.SIG_IGN:
            continue
        before[number] = signal.signal(number, handler)
    try:
        yield
    finally:
        for number, old in before.items():
            signal.signal(number, old)


def _start(one: Rank) -> subprocess.Popen[bytes]:
    out, err = one.output or (None, None)
    process = subprocess.Popen(
        list(one.command),
        env=dict(one.environment),
        stdin=None if one.rank == 0 and out is None else subprocess.DEVNULL,
        stdout=out,
        stderr=err,
        start_new_session=True,
        preexec_fn=die_with_parent(os.getpid()),
    )
    for descriptor in one.output or ():
        os.close(descriptor)
    return process


def _kill_group(leader: int) -> None:
    """End a whole group; the leader's number is not handed out again while the group has members."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(leader, signal.SIGKILL)

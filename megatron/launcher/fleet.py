"""The launching machine's side of a run on several hosts: one agent per host, from the first word to the last.

All hosts must answer and find what they need before any rank starts. Then their output, ends and signs of life are
gathered here, and a failure, a stop or a lost host on one is told to the others.
"""

import contextlib
import os
import selectors
import signal
import socket
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from types import FrameType
from typing import Any

from megatron.errors import SettingsError
from megatron.launcher.connections import Connections
from megatron.launcher.environment import forwarded_variables, python_path
from megatron.launcher.exit_codes import STOPPED, RankExit
from megatron.launcher.failure_record import FailureRecord, keep_record
from megatron.launcher.frames import Frame, Splitter, encode
from megatron.launcher.host_lines import HostLines
from megatron.launcher.hostfile import Hosts
from megatron.launcher.local import Work
from megatron.launcher.meeting import is_loopback, peer_to_look_at
from megatron.launcher.report import say
from megatron.launcher.spawn import Outcome, Patience, signals_handled
from megatron.neox_arguments.arguments import NeoXArgs

_SECONDS_TO_ANSWER = 120.0
_TURN_SECONDS = 0.2
_BEAT_SECONDS = 1.0
_SLACK_SECONDS = 3.0  # what one side may have heard of the other later, and the time that killing takes
_ABRUPT_SECONDS = 5.0  # an end sooner than this after a sign of life is that of the agent or of its host
_CHUNK = 1 << 20


class HostsGone(Exception):
    """Hosts that do not answer. reasons: host -> why, in ssh's words where it had some."""

    def __init__(self, reasons: Mapping[str, str]) -> None:
        super().__init__("\n".join(f"  {host}: {reason}" for host, reason in reasons.items()))
        self.reasons = dict(reasons)


@dataclass(frozen=True)
class Mission:
    """What the hosts are to do. environment: what travels to them; logs: folder for the ranks' output, or None."""

    launcher: str
    work: Work
    folder: str
    environment: Mapping[str, str]
    patience: Patience
    master_addr: str | None = None
    master_port: int | None = None
    num_gpus: int | None = None
    hostfile: str | None = None
    logs: str | None = None


def mission_of(args: NeoXArgs, work: Work, patience: Patience) -> Mission:
    """From the settings and from here: the current folder, and those variables that travel."""
    logs = args.log_dir or args.save
    return Mission(
        launcher=args.launcher,
        work=work,
        folder=os.getcwd(),
        environment={
            **forwarded_variables(os.environ, args.forward_environment),
            "PYTHONPATH": python_path(os.environ),
        },
        patience=patience,
        master_addr=args.master_addr,
        master_port=args.master_port,
        num_gpus=args.num_gpus,
        hostfile=args.hostfile,
        logs=str(Path(logs) / "output") if logs else None,
    )


@dataclass(eq=False)
class _Peer:
    """One host. running: its ranks that have not ended; words: the last that ssh or its shell said."""

    name: str
    slots: tuple[int, ...]
    first_rank: int
    socket: socket.socket
    heard: float
    running: set[int]
    splitter: Splitter = field(default_factory=Splitter)
    words: deque[str] = field(default_factory=lambda: deque(maxlen=5))
    hello: dict[str, Any] | None = None
    ready: dict[str, Any] | None = None
    failed: str | None = None
    lost: str | None = None
    ended: bool = False

    @property
    def there(self) -> bool:
        return self.lost is None and self.failed is None and not self.ended


class Fleet:
    """One start of all ranks on all hosts."""

    def __init__(self, hosts: Hosts, mission: Mission, records: Path, on_exit: Callable[[RankExit], None]) -> None:
        """records: where the ranks' last words are kept for the report; on_exit: called for each rank's end."""
        self._hosts, self._mission, self._records, self._on_exit = hosts, mission, records, on_exit
        self._peers: list[_Peer] = []
        self._selector = selectors.DefaultSelector()
        self._signals: list[int] = []
        self._stop_signal: int | None = None
        self._exits: list[RankExit] = []
        self._said: set[str] = set()
        self._sending = threading.Lock()
        self._over = threading.Event()
        self._start: float | None = None
        self.saved_step: int | None = None
        # Hosts that fell silent and may still be at work, and when their ranks have surely ended (time.monotonic()).
        self.silent: dict[str, float] = {}

    @property
    def lost(self) -> dict[str, str]:
        """Hosts whose connection broke while they had ranks to run, with the reason."""
        return {peer.name: peer.lost for peer in self._peers if peer.lost is not None}

    def run(self) -> Outcome:
        """How every rank ended. HostsGone or SettingsError before any has started."""
        names = list(self._hosts.slots)
        self._lines = HostLines(Path(self._mission.logs) if self._mission.logs else None, names)
        with signals_handled(self._on_signal):
            connections = Connections(names, self._mission.launcher)
            try:
                self._meet(connections)
                threading.Thread(target=self._beat, daemon=True).start()
                self._run_to_the_end()
            finally:
                self._over.set()
                with self._sending:
                    connections.close()
                self._selector.close()
                self._lines.close()
        return Outcome(tuple(self._after_losses()), self._stop_signal)

    def _run_to_the_end(self) -> None:
        if not self._gather(lambda peer: peer.hello):
            return
        self._prepare()
        if not self._gather(lambda peer: peer.ready):
            return
        self._go()
        while any(peer.there for peer in self._peers):
            self._turn()

    def _meet(self, connections: Connections) -> None:
        first_rank, now = 0, time.monotonic()
        for name, slots in self._hosts.slots.items():
            ranks = set(range(first_rank, first_rank + len(slots)))
            peer = _Peer(name, slots, first_rank, connections.sockets[name], now, ranks)
            peer.socket.settimeout(self._mission.patience.silence / 6)
            self._selector.register(peer.socket, selectors.EVENT_READ, peer)
            self._peers.append(peer)
            first_rank += len(slots)

    def _gather(self, answer: Callable[[_Peer], object]) -> bool:
        """Wait until every host has answered. False: we were told to stop. Every host that cannot go on is named."""
        deadline = time.monotonic() + _SECONDS_TO_ANSWER
        while any(peer.there and answer(peer) is None for peer in self._peers):
            self._turn()
            if self._stop_signal is not None:
                self._exits = [RankExit(0, 128 + self._stop_signal, 0.0)]
                return False
            if time.monotonic() > deadline:
                for peer in self._peers:
                    if peer.there and answer(peer) is None:
                        peer.lost = f"no answer within {_SECONDS_TO_ANSWER:.0f} s"
        if self.lost:
            raise HostsGone(self.lost)
        faults = [f"{peer.name}: {peer.failed}" for peer in self._peers if peer.failed is not None]
        if faults:
            raise SettingsError("\n".join(faults))
        return True

    def _prepare(self) -> None:
        mission = self._mission
        addresses = [str(peer.hello["address"]) for peer in self._peers if peer.hello is not None]
        _check_different(self._peers)
        meeting = {"port": mission.master_port, "towards": peer_to_look_at(addresses)}
        for peer in self._peers:
            plan = {
                "name": peer.name,
                "slots": peer.slots,
                "first_rank": peer.first_rank,
                "folder": mission.folder,
                "work": asdict(mission.work),
                "environment": dict(mission.environment),
                "patience": asdict(mission.patience),
                "num_gpus": mission.num_gpus,
                "hostfile": mission.hostfile,
                "logs": mission.logs,
                "meeting": meeting if peer is self._peers[0] else None,
            }
            self._send(peer, prepare=plan)

    def _go(self) -> None:
        found = self._peers[0].ready or {}
        share = {
            "world_size": self._hosts.world_size,
            "master_addr": self._mission.master_addr or found["address"],
            "master_port": found["port"],
        }
        self._start = time.monotonic()
        for peer in self._peers:
            peer.heard = self._start  # it may have waited long for the others to be ready
            self._send(peer, go=share)

    def _turn(self) -> None:
        """Read what has come, pass signals on, look for hosts that send nothing."""
        asked = time.monotonic()
        ready = [key.data for key, _ in self._selector.select(_TURN_SECONDS)]
        for peer in ready:
            self._read(peer)
        while self._signals:
            self._pass_on(self._signals.pop(0))
        # By the time before we looked: showing lines may have taken long (a paused terminal), with more waiting by now.
        silence = self._mission.patience.silence
        for peer in self._peers:
            if self._start is not None and peer.there and peer not in ready and asked - peer.heard > silence:
                self._lose(peer, f"nothing heard from it for {silence:.0f} s")

    def _beat(self) -> None:
        """Runs in a thread: signs of life do not wait for a terminal that takes no more lines."""
        while not self._over.wait(_BEAT_SECONDS):
            for peer in self._peers:
                if peer.there and peer.hello is not None:
                    with contextlib.suppress(OSError):  # a broken connection is for the reading side to notice
                        self._put(peer, {"beat": True})

    def _read(self, peer: _Peer) -> None:
        try:
            data = peer.socket.recv(_CHUNK)
        except OSError:
            data = b""
        for found in peer.splitter.feed(data) if data else peer.splitter.end():
            if isinstance(found, str):
                peer.words.append(found)
                self._lines.show_words(peer.name, found)
            else:
                self._take(peer, found)
        if not data:
            self._selector.unregister(peer.socket)
            if peer.there:
                self._lose(peer, _broken(peer))

    def _take(self, peer: _Peer, frame: Frame) -> None:
        peer.heard = time.monotonic()
        if "lines" in frame:
            self._lines.show(peer.name, frame["rank"], frame["stream"], frame["lines"])
        elif frame.get("beat") is not None:
            self.saved_step = max(self.saved_step or 0, frame["beat"])
        elif "exit" in frame:
            self._take_exit(peer, RankExit(**frame["exit"]), frame["record"])
        elif "say" in frame:
            if frame["say"] not in self._said:  # many hosts say the same of a stop
                self._said.add(frame["say"])
                say(f"{peer.name}: {frame['say']}")
        elif "hello" in frame:
            peer.hello = frame["hello"]
        elif "ready" in frame:
            peer.ready = frame["ready"]
        elif "failed" in frame:
            peer.failed = frame["failed"]["message"]
        elif "end" in frame:
            peer.ended = True

    def _take_exit(self, peer: _Peer, exit_: RankExit, record: dict[str, Any] | None) -> None:
        now = time.monotonic()
        if record is not None:
            known = {**record, "host": peer.name, "seconds": now - record["seconds"]}
            keep_record(self._records, FailureRecord(**known))
        exit_ = replace(exit_, seconds=self._since_start(now))
        peer.running.discard(exit_.rank)
        self._exits.append(exit_)
        self._on_exit(exit_)
        self._hurry_others(peer, exit_.code)

    def _lose(self, peer: _Peer, reason: str) -> None:
        """Its ranks count as killed from outside; the agent there ends them when it finds itself alone."""
        peer.lost = reason
        if self._start is None:
            return
        now, patience = time.monotonic(), self._mission.patience
        if now - peer.heard > _ABRUPT_SECONDS:
            self.silent[peer.name] = peer.heard + patience.silence + patience.after_silence + _SLACK_SECONDS
        for rank in sorted(peer.running):
            code = -signal.SIGKILL
            keep_record(self._records, FailureRecord(rank, peer.name, code, "host lost", reason, now))
            exit_ = RankExit(rank, code, self._since_start(now))
            self._exits.append(exit_)
            self._on_exit(exit_)
        self._hurry_others(peer, -signal.SIGKILL)

    def _hurry_others(self, cause: _Peer, code: int) -> None:
        seconds = self._mission.patience.after(code)
        if seconds is not None:
            for peer in self._peers:
                if peer is not cause and peer.there:
                    self._send(peer, hurry=seconds)

    def _since_start(self, now: float) -> float:
        return now - (self._start if self._start is not None else now)

    def _after_losses(self) -> list[RankExit]:
        """A stop that nobody asked for here is an echo: a host cut off from us told its ranks to save and end."""
        if self._stop_signal is not None or not self.lost:
            return self._exits
        return [replace(one, ended_by_us=True) if one.code == STOPPED else one for one in self._exits]

    def _on_signal(self, number: int, _: FrameType | None) -> None:
        self._signals.append(signal.SIGTERM if number == signal.SIGHUP else number)

    def _pass_on(self, number: int) -> None:
        self._stop_signal = number
        name = signal.Signals(number).name
        there = [peer for peer in self._peers if peer.there and peer.running]
        say(f"{name} passed on to {len(there)} hosts")
        for peer in there:
            self._send(peer, signal=name)

    def _send(self, peer: _Peer, **frame: Any) -> None:
        try:
            self._put(peer, frame)
        except OSError as error:
            if peer.there:
                self._lose(peer, _broken(peer, str(error)))

    def _put(self, peer: _Peer, frame: Frame) -> None:
        """Whole, or the connection is given up: half a frame would spoil what follows."""
        with self._sending:
            try:
                peer.socket.sendall(encode(frame))
            except OSError:
                with contextlib.suppress(OSError):
                    peer.socket.shutdown(socket.SHUT_RDWR)
                raise


def _broken(peer: _Peer, otherwise: str = "ssh said nothing") -> str:
    words = " / ".join(peer.words) or otherwise
    return words if peer.hello is None else f"its agent was killed or the connection broke ({words})"


def _check_different(peers: Sequence[_Peer]) -> None:
    """SettingsError when two names of the hostfile lead to one machine: its accelerators would be used twice."""
    seen: dict[tuple[str, str], str] = {}
    for peer in peers:
        hello = peer.hello or {}
        identity = (hello["host"], hello["address"])
        if hello["address"] and not is_loopback(hello["address"]) and identity in seen:
            raise SettingsError(
                f"{seen[identity]} and {peer.name} are the same machine ({identity[0]}, {identity[1]}): "
                "name it once in the hostfile, with all its slots."
            )
        seen.setdefault(identity, peer.name)

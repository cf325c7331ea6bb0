"""The agent's end of its connection to the launching machine: standard input and output.

Nothing that watches ranks may ever wait for the network: frames are queued, and a thread of its own writes them.
"""

import contextlib
import os
import queue
import select
import threading
import time
from collections.abc import Iterator
from typing import Any

from megatron.launcher.frames import Frame, Splitter, encode

_MOST_QUEUED = 1000
_CHUNK = 65536


class LauncherGone(Exception):
    """The connection ended, or nothing came over it for too long."""


class Uplink:
    """Frames to and from the launching machine. Everything else that writes to standard output goes to errors."""

    def __init__(self, silence: float) -> None:
        self.silence = silence
        self._input = os.dup(0)
        self._output = os.dup(1)
        nothing = os.open(os.devnull, os.O_RDONLY)
        os.dup2(nothing, 0)
        os.dup2(2, 1)
        os.close(nothing)
        self._splitter = Splitter()
        self._received: list[Frame] = []
        self._queue: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        self._writer = threading.Thread(target=self._write, daemon=True)
        self._given_up = False

    def start(self) -> None:
        """From now on send() only queues. Not before the ranks are forked: a fork and threads do not go together."""
        self._writer.start()

    def send(self, **frame: Any) -> None:
        if self._given_up:
            return
        if self._writer.is_alive():
            self._queue.put(encode(frame))
        else:
            self._put(encode(frame))

    def wait_for_room(self) -> None:
        """Holds back whoever has much to say while the network is slower than the ranks write."""
        while self._queue.qsize() > _MOST_QUEUED and not self._given_up:
            time.sleep(0.05)

    def give_up(self) -> None:
        """Nobody listens any more: what is sent from now on is dropped, so that no rank waits to be heard."""
        self._given_up = True

    def receive(self) -> Iterator[Frame]:
        """Frames as they come; raises LauncherGone."""
        while True:
            yield from self._received
            self._received = []
            if not select.select([self._input], [], [], self.silence)[0]:
                raise LauncherGone(f"nothing heard from the launching machine for {self.silence:.0f} s")
            data = os.read(self._input, _CHUNK)
            if not data:
                raise LauncherGone("the connection to the launching machine has ended")
            self._received = [found for found in self._splitter.feed(data) if isinstance(found, dict)]

    def next(self, kind: str) -> Any:
        """The content of the next frame of this kind; others are passed over."""
        for frame in self.receive():
            if kind in frame:
                return frame[kind]
        raise AssertionError("receive() has no end")

    def close(self) -> None:
        """Write what is queued, for as long as there is somebody to read it (give_up() ends the wait)."""
        self._queue.put(None)
        while self._writer.is_alive() and not self._given_up:
            self._writer.join(0.1)

    def _write(self) -> None:
        while (data := self._queue.get()) is not None:
            self._put(data)

    def _put(self, data: bytes) -> None:
        view = memoryview(data)
        with contextlib.suppress(OSError):
            while view:
                view = view[os.write(self._output, view) :]
            return
        self.give_up()

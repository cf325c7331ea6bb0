"""Ends this rank when it gives no sign of life for too long: a peer hangs, a disk does not answer, a lock is stuck.

A thread prints the stacks of all threads and leaves with exit code 6. Should the interpreter itself be stuck, a timer
in C prints the stacks and ends the process soon after.
"""

import faulthandler
import logging
import os
import sys
import threading
from collections.abc import Callable
from typing import NoReturn

from megatron.errors import PeerError
from megatron.launcher import place
from megatron.launcher.failure_record import leave_record

_LATER = 4.0  # seconds after which the timer in C takes over
_LAST_WORDS = 60.0  # the same while stacks, event and record are written, perhaps to the slow disk that is the cause


class Watchdog:
    """Watches the signs of life given by `place.at`, from `start` to `stop`."""

    def __init__(self, limit: float, rank: int, on_expiry: Callable[[str], None] = lambda message: None) -> None:
        """limit: seconds without a sign of life. on_expiry: gets the message before the process ends."""
        self.limit, self._rank, self.on_expiry = limit, rank, on_expiry
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True, name="watchdog")

    def start(self) -> None:
        place.at("starting")
        self._thread.start()

    def stop(self) -> None:
        self._end.set()
        self._thread.join()
        faulthandler.cancel_dump_traceback_later()

    def _watch(self) -> None:
        while True:
            left = self.limit - place.silent_for()
            if left <= 0:
                self._expire()
            faulthandler.dump_traceback_later(left + _LATER, exit=True)
            if self._end.wait(min(max(left, 0.01), 1.0)):
                return

    def _expire(self) -> NoReturn:
        faulthandler.dump_traceback_later(_LAST_WORDS, exit=True)
        message = (
            f"no sign of life for {self.limit:.0f} s (timeout_minutes) on {place.host()} at {place.place()}: this "
            "rank waits for another one that hangs, or hangs itself. The stacks above show where."
        )
        sys.stderr.write(f"[rank {self._rank} on {place.host()}] {place.place()}: the stacks of all threads follow\n")
        sys.stderr.flush()
        faulthandler.dump_traceback(all_threads=True)
        try:
            self.on_expiry(message)
            if not leave_record(PeerError.exit_code, "PeerError", message):
                sys.stderr.write(f"[rank {self._rank} on {place.host()}] PeerError: {message}\n")
            logging.shutdown()
        finally:
            os._exit(PeerError.exit_code)

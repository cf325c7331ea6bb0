"""Threads that run a module one line at a time, in an order that the test chooses: races without luck."""

import sys
import threading
from collections.abc import Callable, Sequence
from types import FrameType
from typing import Any

Pause = Callable[[], None]


class Interleaved:
    """Runs actions, each in a thread; before every line of `file` a thread waits for its turn.

    choose: given the numbers of the threads that wait, the one that runs its next line. An action is given `pause`,
    which waits for a turn as a line of the file does.
    """

    def __init__(self, file: str, choose: Callable[[list[int]], int]) -> None:
        self._file, self._choose = file, choose
        self._turns: dict[int, threading.Semaphore] = {}
        self._waits = threading.Semaphore(0)  # released whenever a thread waits for its turn, or has ended
        self._ended: set[int] = set()

    def run(self, actions: Sequence[Callable[[Pause], Any]]) -> list[Any]:
        """What each action returned or raised."""
        outcomes: list[Any] = [None] * len(actions)

        def act(number: int) -> None:
            sys.settrace(lambda frame, event, _: self._trace(number, frame))
            try:
                self._wait(number)
                outcomes[number] = actions[number](lambda: self._wait(number))
            except Exception as error:
                outcomes[number] = error
            finally:
                sys.settrace(None)
                self._ended.add(number)
                self._waits.release()

        self._turns = {number: threading.Semaphore(0) for number in range(len(actions))}
        threads = [threading.Thread(target=act, args=(number,)) for number in self._turns]
        for thread in threads:
            thread.start()
            self._waits.acquire()
        while waiting := [number for number in self._turns if number not in self._ended]:
            self._turns[self._choose(waiting)].release()
            self._waits.acquire()
        for thread in threads:
            thread.join()
        return outcomes

    def _wait(self, number: int) -> None:
        self._waits.release()
        self._turns[number].acquire()

    def _trace(self, number: int, frame: FrameType) -> Callable[..., Any] | None:
        if frame.f_code.co_filename != self._file:
            return None

        def line(frame: FrameType, event: str, _: Any) -> Any:
            if event == "line":
                self._wait(number)
            return line

        return line

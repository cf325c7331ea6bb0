"""Start a run again after a crash, as long as there is hope: not for faults that the same start would meet again."""

import time
from collections.abc import Callable
from dataclasses import dataclass

from megatron.launcher.exit_codes import PEER_LOST, describe_code

WITHOUT_PROGRESS = 3
_WORTH_A_RETRY = (1, PEER_LOST)
_LONGEST_PAUSE = 300.0


@dataclass(frozen=True)
class Attempt:
    """How one start of the ranks ended. saved_step: newest checkpoint it wrote; stopped: on request, by a signal."""

    code: int
    saved_step: int | None
    stopped: bool = False


def with_retries(
    start: Callable[[int | None], Attempt],
    *,
    max_restarts: int,
    pause: float,
    say: Callable[[str], None],
    on_restart: Callable[[int, Attempt], None] = lambda number, attempt: None,
    sleep: Callable[[float], object] = time.sleep,
) -> int:
    """Exit code of the last attempt. start: gets the newest step saved so far (None at first), runs all ranks.

    A crash (exit codes 1 and 6) is followed by another start, at most `max_restarts` times, after a pause that doubles
    with each crash that came without a new checkpoint; three of these in a row are the end.
    """
    saved, fruitless = None, 0
    for restart in range(max_restarts + 1):
        attempt = start(saved)
        if attempt.code not in _WORTH_A_RETRY or attempt.stopped:
            return attempt.code
        progress = attempt.saved_step is not None and attempt.saved_step > (saved if saved is not None else -1)
        fruitless = 1 if progress else fruitless + 1
        saved = attempt.saved_step if progress else saved
        if fruitless >= WITHOUT_PROGRESS:
            say(f"{fruitless} crashes in a row without a new checkpoint: not started again")
            return attempt.code
        if restart < max_restarts:
            seconds = min(pause * 2 ** (fruitless - 1), _LONGEST_PAUSE)
            kept = "from the start" if saved is None else f"from step {saved}"
            say(f"{describe_code(attempt.code)}: restart {restart + 1} of {max_restarts} {kept} in {seconds:.0f} s")
            on_restart(restart + 1, attempt)
            sleep(seconds)
    if max_restarts:
        say(f"{max_restarts} restarts are used up")
    return attempt.code

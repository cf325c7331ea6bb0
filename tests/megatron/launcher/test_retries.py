"""Restarts: only for crashes, from what was saved, with growing pauses, and never for ever."""

import pytest

from megatron.launcher.retries import Attempt, with_retries


def run(attempts: list[Attempt], max_restarts: int) -> tuple[int, list[int | None], list[float]]:
    """(exit code, the saved step each attempt was given, the pauses)."""
    given: list[int | None] = []
    pauses: list[float] = []
    left = iter(attempts)

    def start(saved: int | None) -> Attempt:
        given.append(saved)
        return next(left)

    code = with_retries(start, max_restarts=max_restarts, pause=5.0, say=lambda _: None, sleep=pauses.append)
    return code, given, pauses


@pytest.mark.parametrize("code", [0, 2, 3, 4, 5, 75, 130, 143])
def test_ends_that_a_restart_cannot_mend(code: int) -> None:
    assert run([Attempt(code, None)], 10) == (code, [None], [])


def test_a_stop_on_request_is_no_crash() -> None:
    assert run([Attempt(6, 4, stopped=True)], 10) == (6, [None], [])


def test_no_restarts_unless_asked_for() -> None:
    assert run([Attempt(6, 4)], 0) == (6, [None], [])


def test_progress_starts_the_count_and_the_pause_anew() -> None:
    crashes = [Attempt(6, 10), Attempt(1, None), Attempt(6, 20), Attempt(6, 20), Attempt(0, 30)]
    assert run(crashes, 10) == (0, [None, 10, 10, 20, 20], [5.0, 10.0, 5.0, 10.0])


def test_three_crashes_without_progress_are_the_end() -> None:
    assert run([Attempt(6, None)] * 10, 10) == (6, [None] * 3, [5.0, 10.0])
    assert run([Attempt(6, 10)] * 10, 10) == (6, [None, 10, 10], [5.0, 10.0])


def test_restarts_are_counted() -> None:
    assert run([Attempt(6, step) for step in range(10)], 2) == (6, [None, 0, 1], [5.0, 5.0])

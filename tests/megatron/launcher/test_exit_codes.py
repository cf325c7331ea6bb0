"""Which rank's end explains the run's end."""

import re
from pathlib import Path

import pytest

from megatron.launcher.exit_codes import RankExit, causing_exit, describe_code, run_exit_code


def ends(*codes: int) -> list[RankExit]:
    """Ranks that ended one second after the other, in this order."""
    return [RankExit(rank, code, float(rank)) for rank, code in enumerate(codes)]


@pytest.mark.parametrize(
    ("codes", "expected"),
    [
        ((0, 0), 0),
        ((6, 3), 3),
        ((1, 6, 4), 4),
        ((-9, 6, 6), 6),
        ((1, -6), 1),
        ((6, 6, 1), 6),
        ((1, 6), 1),
        ((75, 75), 75),
        ((75, 4), 4),
        ((6, 75), 75),
        ((0, 2), 2),
        ((130, 130), 130),
        ((0, -11), 6),
        ((5, 3), 5),
    ],
)
def test_the_runs_code(codes: tuple[int, ...], expected: int) -> None:
    assert run_exit_code(ends(*codes)) == expected


def test_ranks_that_we_ended_explain_nothing() -> None:
    exits = [RankExit(0, -9, 0.0, ended_by_us=True), RankExit(1, 1, 5.0)]
    cause = causing_exit(exits)
    assert cause is not None and cause.rank == 1
    assert run_exit_code(exits[:1]) == 6


def test_a_killed_rank_is_the_cause_though_its_peers_speak_first() -> None:
    exits = [RankExit(0, 6, 6.80), RankExit(1, -9, 6.82)]
    cause = causing_exit(exits)
    assert cause is not None and cause.rank == 1


def test_words() -> None:
    assert describe_code(3) == "exit code 3 (data)"
    assert describe_code(17) == "exit code 17"
    assert "out of memory" in describe_code(-9) and "SIGKILL" in describe_code(-9)
    assert "shared memory" in describe_code(-7)
    assert describe_code(-63).startswith("killed by ")


def test_the_table_of_the_documentation_has_every_code_with_advice() -> None:
    page = (Path(__file__).resolve().parents[3] / "docs" / "launching.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (\d+|128 \+ n) \| (.+) \| (.*) \|$", page, re.M)
    assert [code for code, _, _ in rows] == ["0", "1", "2", "3", "4", "5", "6", "75", "128 + n"]
    assert all(meaning.strip() and advice.strip() for _, meaning, advice in rows)
    assert all(describe_code(int(code)) != f"exit code {code}" for code, _, _ in rows[:-1])

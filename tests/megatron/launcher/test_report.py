"""The launcher's own lines: each fault once, echoes short, the closing line true."""

import json
from pathlib import Path

import pytest

from megatron.launcher.exit_codes import RankExit
from megatron.launcher.report import Report
from megatron.launcher.spawn import Outcome


def leave(folder: Path, rank: int, code: int, kind: str, message: str, seconds: float) -> None:
    record = {"rank": rank, "host": "h", "code": code, "kind": kind, "message": message, "seconds": seconds}
    (folder / f"rank-{rank}.json").write_text(json.dumps(record))


def tell(folder: Path, exits: list[RankExit], stop_signal: int | None = None) -> int:
    report = Report(len(exits), folder)
    for exit_ in exits:
        report.on_exit(exit_)
    return report.close(Outcome(tuple(exits), stop_signal), start=100.0)


def test_one_fault_of_all_ranks_is_told_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for rank in range(3):
        leave(tmp_path, rank, 3, "DataError", "x.bin is short\nby 4 bytes", 101.0)
    assert tell(tmp_path, [RankExit(rank, 3, 1.5) for rank in range(3)]) == 3
    assert capsys.readouterr().err.splitlines() == [
        "deepy: rank 0 of 3 (host h) failed: DataError: x.bin is short",
        "deepy: by 4 bytes",
        "deepy: exit code 3 (data): all 3 ranks alike",
    ]


def test_the_time_of_the_error_counts_not_that_of_the_exit(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    leave(tmp_path, 0, 6, "PeerError", "lost contact", 103.0)
    leave(tmp_path, 1, 1, "KeyError", "", 102.0)
    assert tell(tmp_path, [RankExit(0, 6, 4.0), RankExit(1, 1, 4.1)]) == 1
    lines = capsys.readouterr().err.splitlines()
    assert "KeyError" in lines[1] and "the traceback stands above" in lines[1]
    assert lines[-1].endswith("rank 1 is the cause, 2.0 s after the start")


def test_a_hanging_rank_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    leave(tmp_path, 0, 6, "PeerError", "lost contact", 103.0)
    assert tell(tmp_path, [RankExit(0, 6, 4.0), RankExit(1, -9, 9.0, ended_by_us=True)]) == 6
    text = capsys.readouterr().err
    assert "rank 1 hung and had to be killed" in text and "out of memory" not in text


@pytest.mark.parametrize(
    ("exits", "stop_signal", "code", "words"),
    [
        ([RankExit(0, 0, 1.0)], None, 0, ""),
        ([RankExit(0, 75, 1.0), RankExit(1, 75, 1.1)], 15, 75, "queue the same command again"),
        ([RankExit(0, 143, 1.0)], 15, 143, "before anything was saved"),
        ([RankExit(0, -9, 1.0, ended_by_us=True)], 15, 6, "no rank ended in time"),
        ([RankExit(0, 4, 1.0)], None, 4, "exit code 4 (checkpoint)"),
        ([RankExit(1, -9, 1.0), RankExit(0, -9, 2.0, ended_by_us=True)], None, 6, "rank 1 is the cause, 1.0 s after"),
    ],
)
def test_the_closing_line(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    exits: list[RankExit],
    stop_signal: int | None,
    code: int,
    words: str,
) -> None:
    assert tell(tmp_path, exits, stop_signal) == code
    lines = capsys.readouterr().err.splitlines()
    assert words in (lines[-1] if lines else "")

"""Progress: silent while work is short, then one line an interval."""

import pytest

from megatron.data import progress
from megatron.data.progress import ByteProgress


def test_lines(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    now = 100.0
    monkeypatch.setattr(progress.time, "monotonic", lambda: now)
    shown = ByteProgress(8_000_000_000, "join", interval=2.0)
    for now in (101.0, 102.0, 102.5, 104.5):  # noqa: B007  # read by the clock above
        shown.add(500_000_000)
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2
    assert lines[0] == "join  12%  1.00 of 8.00 GB  0.50 GB/s  ETA 0:00:14"
    assert shown.gigabytes_per_second == pytest.approx(2 / 4.5)
    assert ByteProgress(0, "x").line().endswith("ETA 0:00:00")

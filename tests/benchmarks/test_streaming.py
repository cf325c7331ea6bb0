"""`benchmarks/streaming.py` runs with a tiny model, checks before it times, and writes what it measured."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from benchmarks import streaming

TINY = ["--layers", "1", "--hidden", "32", "--vocab", "64", "--tokens", "40", "--repeats", "1", "--threads", "1"]


@pytest.fixture(autouse=True)
def _threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def test_a_tiny_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "streaming.json"
    assert streaming.main([*TINY, "--out", str(out)]) == 0
    report = json.loads(out.read_text(encoding="utf-8"))
    assert len(report["results"]) == 3
    assert all(entry["max_difference_nats"] < 1e-4 for entry in report["results"])
    assert "times faster" in capsys.readouterr().out


def test_unequal_results_are_not_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streaming, "_TOLERANCE", -1.0)
    with pytest.raises(SystemExit, match="nothing was timed"):
        streaming.main(TINY)

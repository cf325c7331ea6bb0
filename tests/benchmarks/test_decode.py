"""benchmarks/decode.py runs on a tiny model, checks itself, and writes what its README promises."""

import json
from pathlib import Path

import pytest

from benchmarks import decode

TINY = ["--context", "64", "128", "--batch", "1", "2", "--layers", "2", "--hidden", "32", "--heads", "2"]
TINY += ["--vocab", "400", "--steps", "3", "--threads", "1"]


def test_a_tiny_run_writes_its_results(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "decode.json"
    assert decode.main([*TINY, "--out", str(out)]) == 0
    report = json.loads(out.read_text())
    measured = [entry for entry in report["results"] if "wall_ms" in entry]
    assert {entry["cache"] for entry in measured} >= {"DynamicCache", "SepCache s=128", "SepCache all"}
    assert {(entry["batch"], entry["context"]) for entry in measured} == {(b, c) for b in (1, 2) for c in (64, 128)}
    assert all(entry["book_keeping_ms"] > 0 for entry in measured if entry["cache"].startswith("SepCache"))
    assert report["error"] < 1e-4 and report["prefill"]["tokens"] == 128
    assert "speed over DynamicCache (goal >= 8)" in report["goals"]["batch 2"]
    table = capsys.readouterr().out
    assert "| 2 | 128 | SepCache s=128 |" in table and "differs from the mask rule by at most" in table


def test_a_wrong_cache_is_not_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    from sepllm.cache import book

    monkeypatch.setattr(book, "survivors", lambda position, *args: position >= 20)
    with pytest.raises(SystemExit, match="differs from the mask rule"):
        decode.main(TINY)

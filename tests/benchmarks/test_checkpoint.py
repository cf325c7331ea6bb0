"""`benchmarks/checkpoint.py` runs with a tiny model, checks what it times, and reports every case."""

import json
import sys
from pathlib import Path

import pytest
import torch

from benchmarks import checkpoint


def test_a_tiny_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    threads = torch.get_num_threads()
    out = tmp_path / "result.json"
    monkeypatch.setattr(sys, "argv", ["checkpoint.py", "--size", "tiny", "--repeats", "1", "--out", str(out)])
    try:
        checkpoint.main()
    finally:
        torch.set_num_threads(threads)
    result = json.loads(out.read_text())
    assert len(result["seconds"]) == 7 and all(value > 0 for value in result["seconds"].values())
    assert set(result["ratio_to_raw"]) == set(result["goals"])


def test_a_wrong_load_is_not_timed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoint.CheckpointReader, "weight", lambda reader, name: torch.zeros(1))
    with pytest.raises(AssertionError):
        checkpoint.measure(tmp_path, "tiny", 1)

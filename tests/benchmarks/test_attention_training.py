"""`benchmarks/attention_training.py` runs with a tiny model and compares equal work."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from benchmarks import attention_training

TINY = ["--layers", "2", "--hidden", "32", "--heads", "2", "--vocabulary", "64", "--seq", "300", "--seconds", "0.01"]


@pytest.fixture(autouse=True)
def _threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def test_a_tiny_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "training.json"
    assert attention_training.main([*TINY, "--window", "16", "--out", str(out)]) == 0
    report = json.loads(out.read_text(encoding="utf-8"))
    assert [entry["case"] for entry in report["results"]] == ["full", "packed"]
    assert all(entry["tokens_per_second"] > 0 for entry in report["results"])
    assert all(entry["loss"] < 4.3 for entry in report["results"])  # log 64 is 4.16, and it learns
    assert 0.1 < report["kept"] < 0.5 and report["error"] < 1e-4
    assert "tokens per CPU second" in capsys.readouterr().out


def test_a_wrong_model_is_not_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    class Wrong(attention_training.GPTModel):
        def forward(self, *tensors: torch.Tensor) -> torch.Tensor:  # type: ignore[override]
            return super().forward(*tensors) * (1.01 if self.config.attention_path == "packed" else 1)

    monkeypatch.setattr(attention_training, "GPTModel", Wrong)
    with pytest.raises(SystemExit, match="packed model is wrong"):
        attention_training.main(TINY)

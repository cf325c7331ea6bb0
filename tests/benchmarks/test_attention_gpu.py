"""`benchmarks/attention_gpu.py` without a GPU: a dry run checks and times what is there and names what is not."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks import attention_gpu, attention_gpu_cases
from benchmarks.attention_gpu_cases import CONTESTANTS, Contestant, exact
from sepllm.config import SepConfig
from tests.sepllm.attention.brute_force import Case, oracle_attention, sep, text


def _run(tmp_path: Path, *more: str) -> dict[str, dict[str, Any]]:
    out = tmp_path / "gpu.json"
    assert attention_gpu.main(["--dry-run", "--out", str(out), *more]) == 0
    return {entry["case"]: entry for entry in json.loads(out.read_text(encoding="utf-8"))["results"]}


@pytest.mark.skipif(torch.cuda.is_available(), reason="the dry run leaves out what a GPU would run")
def test_a_dry_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = _run(tmp_path)
    assert found.keys() == CONTESTANTS.keys()
    for name in ("sdpa flash", "sdpa cudnn", "ours flex", "flex causal", "original's way", "ours triton"):
        assert "needs a CUDA device" in found[name]["left_out"]
    for name in ("sdpa causal", "ours packed"):
        assert found[name]["forward_ms"] > 0 and found[name]["backward_ms"] > 0
        assert max(found[name]["error"].values()) < 1e-5
    assert found["ours packed"]["kept"] < 0.9 < found["sdpa causal"]["kept"] == 1.0
    shown = capsys.readouterr().out
    assert "| sdpa cudnn | left out: needs a CUDA device" in shown and "| ours packed | " in shown


def test_a_wrong_answer_has_no_speed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    right = CONTESTANTS["ours packed"]
    wrong = Contestant(True, right.missing, right.prepare, lambda q, k, v, plan: right.attend(q, k, v * 1.001, plan))
    monkeypatch.setitem(attention_gpu_cases.CONTESTANTS, "ours packed", wrong)
    entry = _run(tmp_path, "--only", "ours packed")["ours packed"]
    assert "wrong" in entry["left_out"] and "forward_ms" not in entry


def test_no_time_left(tmp_path: Path) -> None:
    entry = _run(tmp_path, "--minutes", "0", "--only", "sdpa causal")["sdpa causal"]
    assert entry["left_out"] == "the 0.0 minutes are over"


@pytest.mark.parametrize("config", [None, sep()])
def test_the_truth_at_some_queries(config: SepConfig | None) -> None:
    case = Case(text(2, 60), config or sep(mode="full"), heads=4)
    *leaves, grad = case.tensors(torch.float64)
    queries = torch.tensor([0, 7, 59])
    found = exact(config, case.ids, leaves, grad, queries)
    leaves = [leaf.requires_grad_() for leaf in leaves]
    out = oracle_attention(*leaves, case.mask())
    true = [out[:, :, queries].detach(), *torch.autograd.grad(out[:, :, queries], leaves, grad[:, :, queries])]
    assert all(torch.allclose(mine.double(), exact_, atol=1e-5) for mine, exact_ in zip(found, true, strict=True))


@pytest.mark.gpu
@pytest.mark.slow
def test_every_contestant_on_a_gpu(tmp_path: Path) -> None:
    out = tmp_path / "gpu.json"
    attention_gpu.main(
        ["--seq", "1024", "--head-dim", "64", "--tokens", "4096", "--repeats", "3", "--heads", "4", "--out", str(out)]
    )
    for entry in json.loads(out.read_text(encoding="utf-8"))["results"]:
        assert "forward_ms" in entry or "wrong" not in entry["left_out"], entry

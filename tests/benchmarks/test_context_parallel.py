"""`benchmarks/context_parallel.py` on a tiny text: bytes are those of the plan, and a wrong answer has no speed."""

import json
from pathlib import Path

import pytest
import torch

from benchmarks import context_parallel
from benchmarks.texts import random_text
from sepllm.attention.context.plan import exchanged_keys
from sepllm.attention.context.split import split_text
from sepllm.attention.plan import build_plan
from sepllm.config import SepConfig


@pytest.mark.multiprocess
def test_a_tiny_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "results" / "context.json"
    lengths = ["--seq", "512", "--ranks", "2", "4", "--windows", "16", "--measured-seq", "512"]
    sizes = ["--processes", "2", "--heads", "4", "--kv-heads", "2", "--head-dim", "8", "--seconds", "0.01"]
    assert context_parallel.main([*lengths, *sizes, "--out", str(out)]) == 0
    report = json.loads(out.read_text(encoding="utf-8"))
    [measured] = report["bytes_in_processes"]
    text = random_text(512, 0.12)
    plan = build_plan(SepConfig(separators=text.separators, window=16), text.row(512))
    row = 2 * 2 * 8 * 4  # key and value, kv_heads, head_dim, float32
    split = split_text(512, 2)
    assert measured["separators"]["forward_bytes"] == int(exchanged_keys(plan, split).sum()) * row
    assert measured["separators"]["backward_bytes"] == measured["separators"]["forward_bytes"]
    assert measured["all_keys"]["forward_bytes"] == int(exchanged_keys(plan, split, sees_all=True).sum()) * row
    assert measured["all_gather_bytes"] == 512 * row
    assert measured["error"] < 1e-5
    for entry in report["keys_by_plan"]:
        assert 0 < entry["received_share"] < 0.3 < entry["all_earlier_keys_share"] <= 1
        assert entry["zigzag_max_over_mean_pairs"][0] < 1.2 < entry["contiguous_max_over_mean_pairs"][0]
    assert "| 512 | 2 | 16 |" in capsys.readouterr().out


def test_a_wrong_answer_has_no_speed() -> None:
    true = [torch.ones(1, 1, 4, 2)]
    with pytest.raises(SystemExit, match="wrong"):
        context_parallel._error([true[0][:, :, :2] * 1.001], true, torch.tensor([0, 1]))

"""`benchmarks/training_step.py` runs with a tiny model, compares equal work, and refuses to time a wrong model."""

import json
from pathlib import Path

import pytest

from benchmarks import training_step
from benchmarks.training_step import FULL, MASKED, PLAIN, PRESETS, SEPLLM

TINY = ["--layers", "2", "--hidden", "32", "--heads", "2", "--vocabulary", "128", "--tokens", "192", "--window", "8"]


@pytest.mark.multiprocess
def test_a_tiny_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("transformers")
    out = tmp_path / "step.json"
    assert training_step.main([*TINY, "--seq", "96", "--steps", "2", "--time-mask", "--out", str(out)]) == 0
    report = json.loads(out.read_text(encoding="utf-8"))
    [comparison] = report["comparisons"]
    assert (comparison["seq"], comparison["micro_batch"]) == (96, 2)
    assert comparison["loss_differences"].keys() == {FULL, SEPLLM}
    assert max(comparison["loss_differences"].values()) < 1e-5
    results = {entry["case"]: entry for entry in comparison["results"]}
    assert list(results) == [PLAIN, MASKED, FULL, SEPLLM]
    for entry in results.values():
        parts = entry["forward_ms"] + entry["backward_ms"] + entry["optimizer_ms"]
        assert entry["repeats"] == 2 and entry["tokens_per_second"] > 0 and entry["peak_mib"] > 0
        assert 0 < parts < 3 * entry["total_ms"] and 0 <= entry["outside_share"] < 1
    full, sparse = results[FULL], results[SEPLLM]
    assert full["tflops"] * full["total_ms"] > sparse["tflops"] * sparse["total_ms"], "kept pairs are fewer"
    assert "engine outside" in capsys.readouterr().out


def test_a_wrong_loss_ends_the_run() -> None:
    losses = {PLAIN: [2.0, 1.5], FULL: [2.0, 1.5], MASKED: [2.1, 1.6], SEPLLM: [2.1, 1.6]}
    assert training_step._check(losses, 1e-4) == {FULL: 0.0, SEPLLM: 0.0}
    for name in (FULL, SEPLLM):
        with pytest.raises(SystemExit, match=f"{name} is wrong"):
            training_step._check(losses | {name: [2.1, 1.5]}, 1e-4)


def test_settings_of_the_presets(capsys: pytest.CaptureFixture[str]) -> None:
    assert training_step._parse(["--threads", "2"]).seq == [512, 4096]
    for preset in PRESETS:
        shape = PRESETS[preset]
        assert all(shape.get("tokens", 4096) % seq == 0 for seq in shape.get("seq", [512, 4096]))
    with pytest.raises(SystemExit):
        training_step._parse(["--seq", "100"])
    assert "multiple of every --seq" in capsys.readouterr().err

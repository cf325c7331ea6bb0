"""tools/ckpts/convert_neox_to_hf.py as a command: flags, exit codes, what it says."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.megatron.export.tiny_checkpoint import write_checkpoint

TOOL = Path(__file__).resolve().parents[3] / "tools" / "ckpts" / "convert_neox_to_hf.py"


def _run(folder: Path, *flags: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(TOOL), *flags], cwd=folder, capture_output=True, text=True, timeout=600, check=False
    )


@pytest.mark.slow
def test_a_checkpoint_of_two_tensor_ranks_becomes_a_proven_folder(tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "save", tp=2)
    done = _run(tmp_path, "--input_dir", "save", "--output_dir", "out", "--precision", "bf16")
    assert done.returncode == 0, done.stderr
    assert "same model: logits differ by" in done.stdout
    report = json.loads((tmp_path / "out" / "export_report.json").read_text())
    assert (report["precision"], report["iteration"], report["verification"]["passed"]) == ("bf16", 7, True)
    refused = _run(tmp_path, "--input_dir", "save", "--output_dir", "out2", "--architecture", "neox")
    assert refused.returncode == 2
    assert "attention mode sepllm" in refused.stderr


@pytest.mark.slow
def test_exit_codes_of_what_is_missing(tmp_path: Path) -> None:
    missing = _run(tmp_path, "--input_dir", "nowhere", "--output_dir", "out")
    assert missing.returncode == 4
    assert "The folder does not exist" in missing.stderr
    assert _run(tmp_path, "--input_dir", "save").returncode == 2

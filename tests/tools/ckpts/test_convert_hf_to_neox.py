"""tools/ckpts/convert_hf_to_neox.py as a command, and the way onward: train with SepLLM, export, load."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.megatron.importing.hf_models import write_hf_model
from tests.tools.ckpts.test_convert_neox_to_hf import TOOL as EXPORT

ROOT = Path(__file__).resolve().parents[3]
TOOL = ROOT / "tools" / "ckpts" / "convert_hf_to_neox.py"
ATTENTION = {"separators": ".,\n", "init_tok_max_idx": 2, "prefill_local_window_size": 12}
TRAINING = {
    "train_iters": 3,
    "train_micro_batch_size_per_gpu": 2,
    "optimizer": {"type": "Adam", "params": {"lr": 1e-3}},
    "lr_decay_style": "constant",
    "checkpoint_factor": 100,
    "eval_iters": 0,
    "save": "trained",
    "load": "ours",
    "finetune": True,
    "data_path": "corpus_text_document",
}


def _run(folder: Path, *command: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *map(str, command)], cwd=folder, capture_output=True, text=True, timeout=600, check=False
    )


@pytest.mark.slow
def test_import_train_export_load(tmp_path: Path) -> None:
    """The path of continued pretraining: a stock model in, three SepLLM steps, a folder for stock transformers out."""
    write_hf_model(tmp_path / "hf", "gpt_neox")
    done = _run(tmp_path, TOOL, "--input_dir", "hf", "--output_dir", "ours")
    assert done.returncode == 0, done.stderr
    assert "same model: logits differ by" in done.stdout
    text = "\n".join(json.dumps({"text": f"The fox, number {number}, jumps. " * 20}) for number in range(30))
    (tmp_path / "corpus.jsonl").write_text(text)
    preprocess = ROOT / "tools" / "datasets" / "preprocess_data.py"
    flags = ["--input", "corpus.jsonl", "--output-prefix", "corpus", "--tokenizer-type", "HFTokenizer"]
    done = _run(tmp_path, preprocess, *flags, "--vocab-file", "ours/tokenizer.json", "--append-eod")
    assert done.returncode == 0, done.stderr
    (tmp_path / "training.yml").write_text(json.dumps(ATTENTION | TRAINING))
    done = _run(tmp_path, ROOT / "train.py", "ours/model.yml", "training.yml")
    assert done.returncode == 0, done.stderr
    done = _run(tmp_path, EXPORT, "--input_dir", "trained", "--output_dir", "out")
    assert done.returncode == 0, done.stderr
    report = json.loads((tmp_path / "out" / "export_report.json").read_text())
    assert (report["iteration"], report["verification"]["passed"]) == (3, True)


@pytest.mark.slow
def test_exit_codes_of_what_cannot_come_in(tmp_path: Path) -> None:
    write_hf_model(tmp_path / "hf", "llama", mlp_bias=True)
    refused = _run(tmp_path, TOOL, "--input_dir", "hf", "--output_dir", "ours")
    assert refused.returncode == 2 and "mlp_bias" in refused.stderr
    assert _run(tmp_path, TOOL, "--input_dir", "nowhere", "--output_dir", "ours").returncode == 4

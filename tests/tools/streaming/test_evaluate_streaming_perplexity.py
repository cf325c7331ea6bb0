"""The streaming tools as commands: flags of both published evaluators, texts of every kind, resume, comparison."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from megatron.export.verify import sample_text
from megatron.launcher import entry
from tests.megatron.importing.hf_models import write_hf_model
from tools.streaming import evaluate_streaming_perplexity

ROOT = Path(__file__).resolve().parents[3]
EVALUATE, COMPARE = "tools/streaming/evaluate_streaming_perplexity.py", "tools/streaming/compare_runs.py"
SEPLLM = ["--enable_kv_cache_manager", "True", "--enable_SepLLM", "True", "--enable_pos_shift", "True"]
SIZES = ["--init_cache_size", "2", "--sep_cache_size", "8", "--local_size", "16", "--cache_size", "48"]


def run(folder: Path, tool: str, *flags: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / tool), *flags]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=600, check=False)


def evaluate(folder: Path, *flags: str) -> subprocess.CompletedProcess[str]:
    return run(folder, EVALUATE, "--model_name_or_path", "model", *flags)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("streaming")
    write_hf_model(folder / "model", "gpt_neox", max_position_embeddings=4096)
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "model_input_names": ["input_ids", "attention_mask"]}
    (folder / "model" / "tokenizer_config.json").write_text(json.dumps(settings))
    (folder / "books").mkdir()
    text = sample_text()
    for number in range(2):
        (folder / "books" / f"{number}.txt").write_text(text[number * 3000 : (number + 1) * 3000])
    lines = [json.dumps({"text": text[start : start + 700]}) for start in range(0, 4200, 700)]
    (folder / "lines.jsonl").write_text("\n".join(lines))
    return folder


@pytest.mark.slow
def test_both_methods_are_scored_resumed_and_compared(place: Path) -> None:
    common = ["--dataset_name", "books", "--separators", ".,\\n"]
    done = evaluate(place, *common, *SEPLLM, *SIZES, "--num_eval_tokens", "500", "--output_dir", "out/sepllm")
    assert done.returncode == 0, done.stderr
    more = ["--num_eval_tokens", "1000", "--output_dir", "out/sepllm", "--resume"]
    done = evaluate(place, *common, *SEPLLM, *SIZES, *more)
    assert done.returncode == 0 and "over 1,000 tokens" in done.stdout, done.stderr
    old_names = ["--enable_kv_cache_manager", "--enable_StreamingLLM", "--enable_pos_shift"]
    old_names += ["--initial_size", "2", "--neighboring_size", "46", "--cache_size", "48"]
    done = evaluate(place, *common, *old_names, "--num_eval_tokens", "1000", "--output_dir", "out/streamingllm")
    assert done.returncode == 0, done.stderr
    compared = run(place, COMPARE, "out/sepllm", "out/streamingllm", "--out", "both.png")
    assert compared.returncode == 0, compared.stderr
    assert "| sepllm | 1,000 |" in compared.stdout and (place / "both.png").is_file()
    report = json.loads((place / "out/streamingllm/report.json").read_text())
    assert (report["most_keys_seen"], report["window"]) == (49, 46)


@pytest.mark.slow
def test_everything_kept_and_other_texts(place: Path) -> None:
    done = evaluate(place, "--dataset_name", "lines.jsonl", "--num_samples", "2", "--output_dir", "out/full")
    assert done.returncode == 0 and "the texts end after" in done.stdout, done.stderr
    report = json.loads((place / "out/full/report.json").read_text())
    assert report["documents"] == 2 and report["most_keys_seen"] == report["tokens"]


@pytest.mark.parametrize(
    ("flags", "code", "words"),
    [
        (["--enable_SepLLM"], 2, "add --enable_kv_cache_manager"),
        (["--enable_kv_cache_manager"], 2, "one of --enable_SepLLM and --enable_StreamingLLM"),
        ([*SEPLLM, *SIZES], 2, "320 tokens"),
        (["--enable_pos_shift", "perhaps"], 2, "neither true nor false"),
        (["--text_key", "body"], 3, "no key 'body'"),
    ],
)
def test_exit_codes(
    place: Path,
    flags: list[str],
    code: int,
    words: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    common = ["--model_name_or_path", "model", "--dataset_name", "lines.jsonl", "--output_dir", str(tmp_path / "out")]
    monkeypatch.chdir(place)
    monkeypatch.setattr(sys, "argv", ["evaluate_streaming_perplexity.py", *common, *flags])
    assert entry.run(evaluate_streaming_perplexity.main) == code
    assert words in capfd.readouterr().err

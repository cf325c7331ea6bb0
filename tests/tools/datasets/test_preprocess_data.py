"""tools/datasets/preprocess_data.py as a newcomer types it: plain clone, GPT-NeoX flags, messages, exit codes."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from megatron.data.indexed_dataset import IndexedDataset
from tests.helpers.tiny_tokenizer import write_tokenizer_json

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture(scope="module")
def vocabulary(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(write_tokenizer_json(tmp_path_factory.mktemp("tokenizer") / "tokenizer.json"))


def run(*flags: object, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(ROOT / "tools" / "datasets" / "preprocess_data.py"), *map(str, flags)],
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=600,
    )


def write_corpus(path: Path, documents: int = 50) -> Path:
    path.write_text("".join(json.dumps({"text": f"The fox jumps {n} times."}) + "\n" for n in range(documents)))
    return path


@pytest.mark.multiprocess
def test_the_command_of_gpt_neox(tmp_path: Path, vocabulary: str) -> None:
    corpus = write_corpus(tmp_path / "corpus.jsonl")
    with corpus.open("a") as file:
        file.write("{oops\n")
    flags = ["--input", corpus, "--tokenizer-type", "HFTokenizer", "--vocab-file", vocabulary, "--append-eod"]
    flags += ["--dataset-impl", "mmap", "--jsonl-keys", "text", "--num-docs", 51, "--log-interval", 10]
    result = run(*flags, "--output-prefix", "out/corpus", "--workers", 2, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert result.stdout.startswith("encoder: ")
    for words in ("50 documents", "MB/s", "out/corpus_text_document", "left out 1", "corpus.jsonl:51:"):
        assert words in result.stdout
    assert IndexedDataset(tmp_path / "out" / "corpus_text_document").num_documents == 50
    assert "corpus.jsonl:51:" in (tmp_path / "out" / "corpus_rejects.txt").read_text()


def test_help_says_what_is_needed() -> None:
    result = run("--help")
    assert result.returncode == 0
    for words in ("--append-eod", "--vocab-file", "exit codes", ".jsonl"):
        assert words in result.stdout


def test_mistakes_have_exit_codes_and_no_traceback(tmp_path: Path, vocabulary: str) -> None:
    corpus = write_corpus(tmp_path / "corpus.jsonl", 3)
    (tmp_path / "empty.jsonl").touch()
    (tmp_path / "keyless.jsonl").write_text('{"content": "a"}\n')
    (tmp_path / "file").touch()
    (tmp_path / "worse.jsonl").write_text('{"text": "a"}\n{\n{\n')
    tokenizer = ["--tokenizer-type", "HFTokenizer", "--vocab-file", vocabulary, "--workers", 1]
    out = ["--output-prefix", tmp_path / "out"]
    cases = [
        (3, "does not exist. Did you mean", ["--input", tmp_path / "corpsu.jsonl", *out, *tokenizer]),
        (3, "the file is empty", ["--input", tmp_path / "empty.jsonl", *out, *tokenizer]),
        (3, "the keys are 'content'", ["--input", tmp_path / "keyless.jsonl", *out, *tokenizer]),
        (3, "cannot write there", ["--input", corpus, "--output-prefix", tmp_path / "file" / "out", *tokenizer]),
        (3, "more than --max-rejects 1", ["--input", tmp_path / "worse.jsonl", *out, *tokenizer, "--max-rejects", 1]),
        (2, "needs vocab_file", ["--input", corpus, *out, "--tokenizer-type", "HFTokenizer"]),
        (2, "--workers", ["--input", corpus, *out, *tokenizer[:-1], 0]),
        (2, "invalid choice: 'HFToken'", ["--input", corpus, *out, "--tokenizer-type", "HFToken"]),
        (2, "--output-prefix", ["--input", corpus, *tokenizer]),
    ]
    for code, words, flags in cases:
        result = run(*flags)
        assert (result.returncode, words in result.stderr) == (code, True), result.stderr
        assert "Traceback" not in result.stderr


def test_no_torch_is_imported() -> None:
    code = (
        "import sys; sys.argv = ['x', '--help']; sys.path.insert(0, '.'); import tools.datasets.preprocess_data; "
        "sys.exit(any(name in sys.modules for name in ('torch', 'transformers', 'deepspeed')))"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0


def test_progress_lines(capsys: pytest.CaptureFixture[str]) -> None:
    from megatron.data.preprocess import Progress
    from tools.datasets.preprocess_data import _Reporter

    report = _Reporter(interval=10, expected_documents=None)
    progress = Progress(total_bytes=1000)
    for documents, seconds in ((5, 2.0), (10, 2.5), (12, 3.6), (20, 3.9), (21, 4.5), (30, 5.0)):
        progress.documents, progress.seconds = documents, seconds
        progress.read_bytes, progress.text_bytes = documents * 20, documents * 1_000_000
        report(progress)
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[1] for line in lines] == ["10", "20", "30"]
    assert lines[0].startswith(" 20%  10 documents  4.0 MB/s")
    assert lines[0].endswith("ETA 0:00:10")

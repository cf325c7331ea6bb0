"""check_data.py: planted ids, cut and swapped files, overlapping sets, all refused with their place and code 3."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from megatron.data.indexed_dataset import IndexedDatasetWriter
from megatron.data.shards import split_file
from tests.tools.datasets.running import ROOT, refused, run_tool

TOOLS = sorted(path.name for path in (ROOT / "tools" / "datasets").glob("*.py"))
IDS = ["--vocab-size", 1000, "--eod", 0]
SETTINGS = """
num_layers: 1
hidden_size: 8
num_attention_heads: 1
seq_length: 8
max_position_embeddings: 8
train_micro_batch_size_per_gpu: 1
train_iters: 2
optimizer: {type: Adam, params: {lr: 1.0e-3}}
USE_ORIGINAL_FULL_ATTEN: true
tokenizer_type: CharLevelTokenizer
"""


def write(prefix: Path, sizes: list[int], seed: int = 0, vocab: int = 1000, dtype: str = "uint16") -> Path:
    random = np.random.default_rng(seed)
    with IndexedDatasetWriter(prefix, dtype=dtype) as writer:
        for size in sizes:
            writer.add_document([*random.integers(1, vocab, size - 1), 0])
    return prefix


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    return write(tmp_path / "corpus", [30, 50, 20, 100])


def plant(prefix: Path, token: int, value: int) -> None:
    with Path(f"{prefix}.bin").open("r+b") as file:
        file.seek(2 * token)
        file.write(np.array([value], "<u2").tobytes())


def test_a_good_set(corpus: Path) -> None:
    done = run_tool("tools/datasets/check_data.py", corpus, *IDS)
    assert done.returncode == 0, done.stderr
    assert "4 documents, 4 of them closed by id 0, 200 tokens" in done.stdout and "GB/s" in done.stdout
    done = run_tool("tools/datasets/check_data.py", corpus, "--tokenizer-type", "CharLevelTokenizer")
    refused(done, 3, "allowed are 0 to 511")


def test_an_id_out_of_range_is_placed(corpus: Path) -> None:
    plant(corpus, 85, 1000)
    plant(corpus, 150, 60000)
    refused(
        run_tool("tools/datasets/check_data.py", corpus, *IDS),
        3,
        "corpus.bin, byte 170: id 1000 at token 85, in document 2;",
    )


def test_an_id_in_a_shard_is_placed_in_the_shard(corpus: Path) -> None:
    plant(corpus, 150, 2000)
    split_file(Path(f"{corpus}.bin"), corpus.parent, 121)
    Path(f"{corpus}.bin").unlink()
    refused(
        run_tool("tools/datasets/check_data.py", corpus, *IDS),
        3,
        "corpus-00002-of-00003.bin, byte 58: id 2000 at token 150",
    )


def test_cut_and_missing_files(corpus: Path) -> None:
    os.truncate(f"{corpus}.bin", 398)
    refused(run_tool("tools/datasets/check_data.py", corpus, *IDS), 3, "corpus.bin", "expected 400 bytes", "398")
    Path(f"{corpus}.bin").unlink()
    refused(run_tool("tools/datasets/check_data.py", corpus, *IDS), 3, "corpus.bin not found")


def test_a_bin_of_another_set_of_the_same_length(corpus: Path) -> None:
    other = write(corpus.parent / "other", [100, 20, 50, 30], seed=1)
    shutil.copy(f"{other}.bin", f"{corpus}.bin")
    refused(
        run_tool("tools/datasets/check_data.py", corpus, *IDS),
        3,
        "corpus.bin, byte 58: document 0 does not end with id 0",
        "not of one data set",
    )


def test_swapped_bytes(corpus: Path) -> None:
    path = Path(f"{corpus}.bin")
    path.write_bytes(np.fromfile(path, "<u2").byteswap().tobytes())
    refused(run_tool("tools/datasets/check_data.py", corpus, *IDS), 3, "corpus.bin, byte 0: id ")


def test_no_end_of_document(tmp_path: Path) -> None:
    with IndexedDatasetWriter(tmp_path / "pile", dtype="uint16") as writer:
        for _ in range(3):
            writer.add_document(np.arange(1, 50))
    refused(run_tool("tools/datasets/check_data.py", tmp_path / "pile", *IDS), 3, "does not occur", "--no-eod")
    assert run_tool("tools/datasets/check_data.py", tmp_path / "pile", *IDS, "--no-eod").returncode == 0


def test_labels(tmp_path: Path) -> None:
    with IndexedDatasetWriter(tmp_path / "labels", dtype="int32") as writer:
        writer.add_document([-100, -100, 5, 6])
    assert run_tool("tools/datasets/check_data.py", tmp_path / "labels", *IDS, "--labels").returncode == 0
    refused(run_tool("tools/datasets/check_data.py", tmp_path / "labels", *IDS), 3, "labels.bin, byte 0: id -100")
    with IndexedDatasetWriter(tmp_path / "wrong", dtype="int32") as writer:
        writer.add_document([-100, 5, -101])
    refused(
        run_tool("tools/datasets/check_data.py", tmp_path / "wrong", *IDS, "--labels"), 3, "wrong.bin, byte 8: id -101"
    )


def test_every_finding_is_told(corpus: Path) -> None:
    bad = write(corpus.parent / "bad", [10], vocab=1000)
    plant(bad, 4, 1001)
    done = run_tool("tools/datasets/check_data.py", corpus.parent / "missing", bad, corpus, *IDS)
    refused(done, 3, "missing.bin", "id 1001 at token 4")
    assert "4 documents" in done.stdout


def test_settings_with_sets_apart_and_overlapping(tmp_path: Path) -> None:
    one = write(tmp_path / "one", [30, 40, 50], vocab=250)
    write(tmp_path / "two", [20, 60], seed=2, vocab=250)
    config = tmp_path / "a.yml"
    config.write_text(f"{SETTINGS}\ndata_path: {one}\nsplit: '1,1,1'\n")
    done = run_tool("tools/datasets/check_data.py", "--config", config)
    assert done.returncode == 0, done.stderr
    for words in (
        "train: ",
        "documents 2 to 2",
        "no document is in two sets",
        "0 of 1 documents have an equal in train",
    ):
        assert words in done.stdout
    lists = f"train_data_paths: [{one}]\nvalid_data_paths: [{tmp_path / 'two'}]\ntest_data_paths: [{one}]\n"
    config.write_text(SETTINGS + lists)
    refused(
        run_tool("tools/datasets/check_data.py", "--config", config), 3, "documents 0 to 2 are in both train and test"
    )
    done = run_tool("tools/datasets/check_data.py", "--config", config, "--allow-overlap", "--no-compare")
    assert done.returncode == 0 and "have an equal" not in done.stdout
    done = run_tool("tools/datasets/check_data.py", "--config", config, "--allow-overlap")
    assert done.returncode == 0, done.stderr
    assert "test: 3 of 3 documents have an equal in train" in done.stdout
    assert "valid: 0 of 2 documents have an equal in train" in done.stdout


def test_usage(corpus: Path) -> None:
    refused(run_tool("tools/datasets/check_data.py"), 2, "give either data sets or --config")
    refused(run_tool("tools/datasets/check_data.py", corpus), 2, "--vocab-size")


def test_light_tools_import_no_torch() -> None:
    code = (
        "import sys, importlib; sys.path.insert(0, '.')\n"
        f"for name in {TOOLS}: importlib.import_module('tools.datasets.' + name[:-3])\n"
        "sys.exit(any(name in sys.modules for name in ('torch', 'transformers', 'deepspeed')))"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0


@pytest.mark.parametrize("name", TOOLS)
def test_help_of_every_tool(name: str, tmp_path: Path) -> None:
    done = run_tool(f"tools/datasets/{name}", "--help", cwd=tmp_path)
    assert done.returncode == 0
    assert "exit codes" in done.stdout and f"python tools/datasets/{name}" in done.stdout

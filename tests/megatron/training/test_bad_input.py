"""Each mistake a newcomer makes, made from the command line: exit code, and words that name value and cure."""

import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from megatron.data.indexed_dataset import IndexedDatasetWriter
from tests.helpers.tiny_run import tiny_settings, write_settings, write_tiny_data

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_data(tmp_path_factory.mktemp("data"))


def deepy(
    folder: Path, settings: dict[str, Any], *options: str, **environment: str
) -> subprocess.CompletedProcess[str]:
    config = write_settings(folder / "config.yml", settings)
    return subprocess.run(
        [sys.executable, str(ROOT / "deepy.py"), *options, "train.py", str(config)],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
        capture_output=True,
        text=True,
        timeout=600,
    )


def check(result: subprocess.CompletedProcess[str], code: int, *words: str) -> None:
    said = result.stdout + result.stderr
    assert result.returncode == code, said
    for word in words:
        assert word in said, f"{word!r} not said:\n{said}"
    assert "Traceback" not in said


def test_misspelt_key(tmp_path: Path, data: Path) -> None:
    check(deepy(tmp_path, {**tiny_settings(data), "hiden_size": 32}), 2, "hiden_size", "hidden_size", "config.yml:")


def test_wrong_type(tmp_path: Path, data: Path) -> None:
    check(deepy(tmp_path, tiny_settings(data, num_layers="four")), 2, "num_layers", "four", "config.yml:")


def test_several_mistakes_are_told_at_once(tmp_path: Path, data: Path) -> None:
    settings = {**tiny_settings(data, num_layers="four"), "hiden_size": 32}
    check(deepy(tmp_path, settings), 2, "hiden_size", "num_layers")


def test_sums_that_do_not_divide(tmp_path: Path, data: Path) -> None:
    check(deepy(tmp_path, tiny_settings(data, train_batch_size=5, train_micro_batch_size_per_gpu=2)), 2, "5", "2")
    check(deepy(tmp_path, tiny_settings(data, num_attention_heads=5)), 2, "num_attention_heads", "5", "32")


def test_more_ranks_than_the_host_has(tmp_path: Path, data: Path) -> None:
    hostfile = tmp_path / "hostfile"
    hostfile.write_text("localhost slots=2\n")
    result = deepy(tmp_path, tiny_settings(data, pipe_parallel_size=4, hostfile=str(hostfile)))
    check(result, 2, "4", "2")


def test_port_in_use(tmp_path: Path, data: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        check(deepy(tmp_path, tiny_settings(data, master_port=port)), 2, str(port), "master_port")


@pytest.mark.multiprocess
def test_missing_data_file(tmp_path: Path, data: Path) -> None:
    missing = data.with_name("tinny_text_document")
    check(deepy(tmp_path, tiny_settings(missing)), 3, "tinny_text_document", "tiny_text_document")


@pytest.mark.multiprocess
def test_truncated_bin(tmp_path: Path) -> None:
    prefix = write_tiny_data(tmp_path / "cut")
    binary = Path(f"{prefix}.bin")
    size = binary.stat().st_size
    os.truncate(binary, size - 10)
    check(deepy(tmp_path, tiny_settings(prefix)), 3, str(size), str(size - 10), binary.name)


@pytest.mark.multiprocess
@pytest.mark.parametrize("ranks", [1, 2])
def test_vocabulary_smaller_than_an_id_in_the_data(tmp_path: Path, ranks: int) -> None:
    prefix = tmp_path / "large_text_document"
    with IndexedDatasetWriter(prefix, vocab_size=60_000) as writer:
        for document in range(40):
            ids = np.arange(document, document + 100) % 256
            ids[50] = 40_000 if document == 20 else ids[50]
            writer.add_document(ids.tolist())
    settings = tiny_settings(prefix, train_iters=50, split="1,0,0", pipe_parallel_size=ranks, num_gpus=ranks)
    check(deepy(tmp_path, settings), 3, "40000", "512", "large_text_document")


@pytest.mark.multiprocess
def test_unwritable_save(tmp_path: Path, data: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("a file where the folder should be")
    check(
        deepy(tmp_path, tiny_settings(data, save=str(blocked / "run"), checkpoint_factor=10)), 4, str(blocked), "save"
    )


@pytest.mark.multiprocess
def test_load_without_a_checkpoint(tmp_path: Path, data: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    check(deepy(tmp_path, tiny_settings(data, load=str(empty))), 4, str(empty), "empty", "load")

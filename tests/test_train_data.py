"""Training refuses damaged data with the file, the place and exit code 3: before the first step, or in the middle."""

import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from megatron.data.shards import split_file
from tests.helpers.tiny_run import tiny_settings, write_settings, write_tiny_data

REPOSITORY = Path(__file__).resolve().parents[1]


def start(folder: Path, data: Path, iterations: int) -> subprocess.Popen[str]:
    config = write_settings(folder / "a.yml", tiny_settings(data, train_iters=iterations))
    return subprocess.Popen(
        [sys.executable, "-u", str(REPOSITORY / "train.py"), str(config)],
        cwd=folder,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def plant(data: Path) -> str:
    tokens = np.fromfile(f"{data}.bin", "<u2")
    tokens[::7] = 600  # the vocabulary has 512 ids; every sample has one
    tokens.tofile(f"{data}.bin")
    return r"id 600 at token"


def plant_in_shards(data: Path) -> str:
    message = plant(data)
    split_file(Path(f"{data}.bin"), data.parent, 1001)
    Path(f"{data}.bin").unlink()
    return message


def cut(data: Path) -> str:
    os.truncate(f"{data}.bin", 1000)
    return "found 1000 bytes"


def swap(data: Path) -> str:
    other = write_tiny_data(data.parent / "other", documents=50, seed=1)
    Path(f"{other}.bin").replace(f"{data}.bin")
    return "or the two are not of one data set"


@pytest.mark.slow
@pytest.mark.parametrize("damage", [plant, plant_in_shards, cut, swap])
def test_damaged_before_the_start(tmp_path: Path, damage) -> None:
    data = write_tiny_data(tmp_path / "data")
    words = damage(data)
    process = start(tmp_path, data, 3)
    output, _ = process.communicate(timeout=600)
    assert process.returncode == 3, output
    assert words in output and str(data) in output and "Traceback" not in output


@pytest.mark.slow
def test_shortened_while_training_reads_it(tmp_path: Path) -> None:
    data = write_tiny_data(tmp_path / "data", documents=400)
    process = start(tmp_path, data, 100_000)
    assert process.stdout is not None
    lines: list[str] = []
    give_up = time.monotonic() + 600
    try:
        for line in process.stdout:
            lines.append(line)
            if line.lstrip().startswith(("step", "iteration")) or " loss " in line:
                break
            assert time.monotonic() < give_up, "".join(lines)
        os.truncate(f"{data}.bin", 100)
        output, _ = process.communicate(timeout=600)
    finally:
        process.kill()
    assert process.returncode == 3, "".join(lines) + output
    assert f"{data}.bin: expected" in output and "shortened while in use" in output and "Traceback" not in output

"""batch_viewer.py: what it shows is what training reads; rows of preshuffled sets as Pythia's viewer cuts them."""

import json
import zlib
from pathlib import Path

import numpy as np
import pytest
import yaml

from megatron.data.from_args import datasets_from_args
from megatron.data.indexed_dataset import IndexedDatasetWriter
from megatron.errors import DataError
from megatron.neox_arguments.load import load_arguments
from tests.helpers.shared import shared_folder
from tests.helpers.tiny_run import tiny_settings, write_tiny_data
from tests.tools.datasets.running import call_tool, refused, run_tool

VIEWER = "tools/datasets/batch_viewer.py"


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "a.yml"
    path.write_text(yaml.safe_dump(tiny_settings(write_tiny_data(tmp_path / "data"))))
    return path


def test_the_batches_of_training(config: Path, tmp_path: Path) -> None:
    flags = [config, "--start_iteration", 2, "--end_iteration", 3]
    done = run_tool(VIEWER, *flags, "--save_path", tmp_path / "ids.npy")
    assert done.returncode == 0, done.stderr
    shown = np.load(tmp_path / "ids.npy")
    train = datasets_from_args(load_arguments([config]), 512).train
    batches = train.batches(consumed_samples=8, micro_batch_size=4, dp_rank=0, dp_size=1)
    for step in (0, 1):
        batch = next(batches)
        assert np.array_equal(shown[4 * step : 4 * step + 4, :-1], batch.tokens.numpy())
        assert np.array_equal(shown[4 * step : 4 * step + 4, 1:], batch.labels.numpy())


def test_text_and_html(config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    call_tool(VIEWER, config, "--rows", 1, "--tokens", 20)
    heading, *text = capsys.readouterr().out.splitlines()
    assert heading.startswith("=== step 0, row 0: sample ") and heading.endswith("64 of 64 count")
    assert text and len("".join(text)) <= 40
    call_tool(VIEWER, config, "--save_path", tmp_path / "new" / "b.html", "--split", "valid")
    page = (tmp_path / "new" / "b.html").read_text()
    assert page.startswith("<!DOCTYPE html>") and page.count("<pre>") == 4 and "row 3: sample" in page
    call_tool(VIEWER, config, "--save_path", tmp_path / "b.txt")
    assert (tmp_path / "b.txt").read_text().count("=== step 0") == 4


def test_rows_of_a_data_set(tmp_path: Path) -> None:
    with IndexedDatasetWriter(tmp_path / "document", dtype="uint16") as writer:
        for row in range(6):
            writer.add_document(np.arange(row, row + 5))
    flags = [tmp_path / "document", "--start_iteration", 2, "--end_iteration", 4]
    assert run_tool(VIEWER, *flags, "--save_path", tmp_path / "out").returncode == 0
    assert np.load(tmp_path / "out" / "indicies.npy").tolist() == [[n, n + 1, n + 2, n + 3, n + 4] for n in (2, 3, 4)]
    assert "2 3 4 5 6" in run_tool(VIEWER, *flags).stdout
    refused(run_tool(VIEWER, *flags[:-1], 6), 3, "has sequences 0 to 5, asked for 6")
    refused(run_tool(VIEWER, *flags[:-1], 1), 2, "0 <= start <= end")
    refused(run_tool(VIEWER, tmp_path / "none"), 3, "No data set at")
    with IndexedDatasetWriter(tmp_path / "ragged", dtype="uint16") as writer:
        writer.add_document([1])
        writer.add_document([1, 2])
    ragged = [tmp_path / "ragged", "--end_iteration", 1, "--save_path", tmp_path / "x.npy"]
    refused(run_tool(VIEWER, *ragged), 3, "make no array")


def test_an_id_outside_the_vocabulary_stops_it(config: Path, tmp_path: Path) -> None:
    data = next((tmp_path / "data").glob("*.bin"))
    tokens = np.fromfile(data, "<u2")
    tokens[:] = 60000
    tokens.tofile(data)
    with pytest.raises(DataError, match=rf"{data}, byte \d+: id 60000 at token"):
        call_tool(VIEWER, config)


def test_golden_slice_of_a_preshuffled_set(tmp_path: Path) -> None:
    folder = shared_folder("reference", "goldens_data")
    expect = json.loads((folder / "expect.json").read_text())["preshuffled"]
    flags = [folder / "preshuffled" / "document", "--start_iteration", 2, "--end_iteration", 5]
    assert run_tool(VIEWER, *flags, "--save_path", tmp_path / "ids.npy").returncode == 0
    ids = np.load(tmp_path / "ids.npy")
    assert ids[:, :4].tolist() == expect["row_first4"][2:6]
    assert zlib.crc32(ids.tobytes()) == expect["batch_viewer_slice_2_6_crc32_uint16"]

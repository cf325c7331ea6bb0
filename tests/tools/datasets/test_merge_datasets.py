"""merge_datasets.py and dataset_token_count.py as a user runs them."""

import json
from pathlib import Path

from megatron.data.indexed_dataset import IndexedDataset, IndexedDatasetWriter
from megatron.data.shards import split_file
from tests.tools.datasets.running import refused, run_tool

SETS = {"b": [[[1, 2], [3]], [], [[4]]], "a": [[[5]], [[6, 7], []]], "c": [[[8, 9, 10]]]}


def write_sets(folder: Path) -> None:
    folder.mkdir()
    for name, documents in SETS.items():
        with IndexedDatasetWriter(folder / name, dtype="uint16") as writer:
            for sequences in documents:
                writer.add_sequences(sequences)


def test_all_of_a_folder_by_name(tmp_path: Path) -> None:
    write_sets(tmp_path / "parts")
    split_file(tmp_path / "parts" / "c.bin", tmp_path / "parts", 4)
    (tmp_path / "parts" / "c.bin").unlink()  # one of the sets lies in shards
    done = run_tool("tools/datasets/merge_datasets.py", "--input", "parts", "--output-prefix", "out/all", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "3 data sets, 6 documents, 10 tokens" in done.stdout
    with IndexedDatasetWriter(tmp_path / "expected", dtype="uint16") as writer:
        for name in sorted(SETS):
            for sequences in SETS[name]:
                writer.add_sequences(sequences)
    for ending in ("bin", "idx"):
        assert (tmp_path / "out" / f"all.{ending}").read_bytes() == (tmp_path / f"expected.{ending}").read_bytes()
    assert [IndexedDataset(tmp_path / "out" / "all").document(n).tolist() for n in (1, 2)] == [[6, 7], [1, 2, 3]]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["all.bin", "all.idx"]


def test_what_cannot_be_merged(tmp_path: Path) -> None:
    write_sets(tmp_path / "parts")
    flags = ["--input", tmp_path / "parts", "--output-prefix"]
    refused(
        run_tool("tools/datasets/merge_datasets.py", *flags, tmp_path / "parts" / "a"), 3, "is one of the data sets"
    )
    with IndexedDatasetWriter(tmp_path / "parts" / "wide", dtype="int32") as writer:
        writer.add_document([1])
    refused(run_tool("tools/datasets/merge_datasets.py", *flags, tmp_path / "all"), 3, "int32", "uint16", "wide")
    (tmp_path / "parts" / "wide.idx").unlink()
    refused(
        run_tool("tools/datasets/merge_datasets.py", *flags, tmp_path / "all"), 3, "its index wide.idx is not there"
    )
    refused(
        run_tool("tools/datasets/merge_datasets.py", "--input", tmp_path / "x", "--output-prefix", "y"),
        3,
        "no such folder",
    )
    (tmp_path / "empty").mkdir()
    refused(
        run_tool("tools/datasets/merge_datasets.py", "--input", tmp_path / "empty", "--output-prefix", "y"),
        3,
        "no data sets",
    )
    assert not list(tmp_path.glob("all*"))


def test_token_count(tmp_path: Path) -> None:
    write_sets(tmp_path / "parts")
    done = run_tool("tools/datasets/dataset_token_count.py", tmp_path / "parts" / "a", tmp_path / "parts" / "b")
    assert done.returncode == 0
    assert "parts/b: 3 documents, 4 tokens of uint16" in done.stdout
    assert "together: 5 documents, 7 tokens" in done.stdout
    done = run_tool("tools/datasets/dataset_token_count.py", "--json", tmp_path / "parts" / "b")
    assert json.loads(done.stdout)["sequences"] == 3
    refused(run_tool("tools/datasets/dataset_token_count.py", tmp_path / "parts" / "d"), 3, "No data set at")

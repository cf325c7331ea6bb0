"""Rows of Parquet, Arrow and saved `datasets`: all of them, from any row on, and what damage turns into."""

from pathlib import Path
from typing import Any

import pytest

from megatron.data import table_files
from megatron.data.encode_documents import EncodeSettings
from megatron.data.indexed_dataset import IndexedDataset
from megatron.data.input_files import find_input_files
from megatron.data.preprocess import preprocess
from megatron.data.table_files import UnreadableTable, row_batches, table_size
from megatron.data.text_files import TextFiles
from megatron.errors import DataError

pa = pytest.importorskip("pyarrow")
TEXTS = [f"text {number} \u65e5\u672c" for number in range(25)]


def table() -> Any:
    return pa.table({"id": list(range(25)), "text": TEXTS, "other": TEXTS[::-1]})


def write(kind: str, tmp_path: Path) -> Path:
    """The table in several row groups, record batches or files."""
    path = tmp_path / f"a.{kind}"
    if kind == "parquet":
        pa.parquet = pytest.importorskip("pyarrow.parquet")
        pa.parquet.write_table(table(), path, row_group_size=10)
    elif kind in ("arrow", "stream.arrow"):
        make = pa.ipc.new_file if kind == "arrow" else pa.ipc.new_stream
        with make(str(path), table().schema) as writer:
            writer.write_table(table(), max_chunksize=10)
    else:
        datasets = pytest.importorskip("datasets")
        datasets.Dataset(table()).save_to_disk(path, num_shards=3)
    return path


KINDS = ["parquet", "arrow", "stream.arrow", "saved"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("first_row", [0, 3, 10, 24, 25])
def test_rows_from_anywhere(tmp_path: Path, kind: str, first_row: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(table_files, "BATCH_ROWS", 4)
    path = write(kind, tmp_path)
    batches = list(row_batches(path, ["other", "text"], first_row))
    assert [list(batch) for batch in batches] == [["other", "text"]] * len(batches)
    assert [text for batch in batches for text in batch["text"]] == TEXTS[first_row:]
    assert [text for batch in batches for text in batch["other"]] == TEXTS[::-1][first_row:]
    assert all(len(batch["text"]) <= 4 for batch in batches)
    assert table_size(path) > 0


@pytest.mark.parametrize("kind", KINDS)
def test_from_table_to_data_set(tmp_path: Path, kind: str) -> None:
    path = write(kind, tmp_path)
    settings = EncodeSettings("CharLevelTokenizer", None, None, ("text", "other"), append_eod=True, ftfy=False)
    result = preprocess(find_input_files([str(path)]), str(tmp_path / "out"), settings, workers=1)
    assert (result.documents, result.rejected, result.read_bytes) == (25, 0, result.total_bytes)
    for name, texts in (("text", TEXTS), ("other", TEXTS[::-1])):
        dataset = IndexedDataset(tmp_path / f"out_{name}_document")
        assert [dataset.document(n).tolist() for n in range(25)] == [[*text.encode(), 0] for text in texts]


@pytest.mark.parametrize("kind", KINDS)
def test_a_column_that_is_not_there(tmp_path: Path, kind: str) -> None:
    path = write(kind, tmp_path)
    with pytest.raises(UnreadableTable, match="no key 'txt'; the keys are 'id', 'text', 'other'"):
        list(row_batches(path, ["txt"]))
    (document,) = TextFiles([path], ["txt"]).documents()
    assert document.damage
    assert document.place() == f"{path}:row 1"


@pytest.mark.parametrize("kind", ["parquet", "arrow", "stream.arrow"])
def test_a_cut_table(tmp_path: Path, kind: str) -> None:
    path = write(kind, tmp_path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 2 // 3])
    documents = list(TextFiles([path]).documents())
    assert documents[-1].damage
    assert "unreadable from here to the end of the table" in documents[-1].damage
    assert documents[-1].line == len(documents)


def test_bad_rows_are_named_and_their_neighbours_kept(tmp_path: Path) -> None:
    pq = pytest.importorskip("pyarrow.parquet")
    bad = pa.Array.from_buffers(
        pa.string(), 2, [None, pa.py_buffer(b"\0\0\0\0\1\0\0\0\3\0\0\0"), pa.py_buffer(b"\xffok")]
    )
    column = pa.chunked_array([pa.array(["one", None, ""]), bad])
    pq.write_table(pa.table({"text": column}), tmp_path / "a.parquet")
    settings = EncodeSettings("CharLevelTokenizer", None, None, ("text",), append_eod=False, ftfy=False)
    result = preprocess([tmp_path / "a.parquet"], str(tmp_path / "out"), settings, workers=1)
    assert (result.documents, result.rejected) == (2, 3)
    assert result.rejects_path
    reasons = result.rejects_path.read_text().splitlines()
    assert [reason.split("parquet:")[1].split(":")[0] for reason in reasons] == ["row 2", "row 3", "row 4"]
    for reason, words in zip(reasons, ("holds null", "is empty", "not UTF-8"), strict=True):
        assert words in reason


def test_folders_that_are_not_what_they_seem(tmp_path: Path) -> None:
    folder = tmp_path / "set"
    folder.mkdir()
    (folder / "dataset_info.json").write_text("{}")
    cases = [
        ("{}", "not what `datasets` writes"),
        ('{"_data_files": [{"filename": "a.arrow"}]}', "names a.arrow, which is not there"),
        ('{"_data_files": [], "_indices_data_files": [{"filename": "i.arrow"}]}', "flatten_indices"),
    ]
    for content, words in cases:
        (folder / "state.json").write_text(content)
        with pytest.raises(DataError, match=words):
            list(row_batches(folder, ["text"]))


def test_neither_datasets_nor_torch_is_imported(tmp_path: Path) -> None:
    import subprocess
    import sys

    path = write("saved", tmp_path)
    code = (
        f"import sys; from pathlib import Path; from megatron.data.table_files import row_batches; "
        f"assert list(row_batches(Path({str(path)!r}), ['text'])); "
        "sys.exit('torch' in sys.modules or 'datasets' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).resolve().parents[3]).returncode == 0

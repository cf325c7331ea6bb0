"""What --input may name: files by their endings, folders, data sets of `datasets`, comma lists."""

from pathlib import Path

import pytest

from megatron.data.input_files import find_input_files, kind_of
from megatron.errors import DataError


def test_inputs_are_files_folders_and_comma_lists(tmp_path: Path) -> None:
    for name in ("b.jsonl", "a.txt", "c.jsonl.gz", "notes.md", "x,y.jsonl"):
        (tmp_path / name).touch()
    b, comma = str(tmp_path / "b.jsonl"), str(tmp_path / "x,y.jsonl")
    names = [path.name for path in find_input_files([f"{b},{tmp_path}", comma])]
    assert names == ["b.jsonl", "a.txt", "b.jsonl", "c.jsonl.gz", "x,y.jsonl", "x,y.jsonl"]


def test_inputs_that_cannot_be_meant(tmp_path: Path) -> None:
    (tmp_path / "corpus.jsonl").touch()
    (tmp_path / "corpus.pdf").touch()
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"corpsu\.jsonl does not exist\. Did you mean .*corpus\.jsonl\?"):
        find_input_files([str(tmp_path / "corpsu.jsonl")])
    with pytest.raises(DataError, match=r"corpus\.pdf has an unknown ending; expected \.jsonl"):
        find_input_files([str(tmp_path / "corpus.pdf")])
    with pytest.raises(DataError, match="no text files in the folder"):
        find_input_files([str(tmp_path / "empty")])
    with pytest.raises(DataError, match=r"nowhere.*does not exist"):
        find_input_files([str(tmp_path / "nowhere" / "a.jsonl")])


def saved_dataset(folder: Path) -> Path:
    folder.mkdir(parents=True)
    for name in ("state.json", "dataset_info.json"):
        (folder / name).write_text("{}")
    return folder


def test_kinds(tmp_path: Path) -> None:
    names = {"a.jsonl.zst": (".jsonl", ".zst"), "a.txt.gz": (".txt", ".gz"), "a.parquet": (".parquet", "")}
    names |= {"a.parquet.gz": ("", ".gz"), "a.gz": ("", ".gz"), "a.pdf": ("", ""), "a.arrow": (".arrow", "")}
    assert {name: kind_of(Path(name)) for name in names} == names
    assert kind_of(saved_dataset(tmp_path / "set")) == ("dataset", "")
    assert kind_of(tmp_path) == ("", "")


def test_a_saved_dataset_is_one_input_and_its_splits_are_named(tmp_path: Path) -> None:
    train = saved_dataset(tmp_path / "both" / "train")
    saved_dataset(tmp_path / "both" / "test")
    (tmp_path / "both" / "dataset_dict.json").touch()
    assert find_input_files([str(train)]) == [train]
    with pytest.raises(DataError, match=r"several splits \(test, train\).*both/test .*both/train"):
        find_input_files([str(tmp_path / "both")])
    with pytest.raises(DataError, match="does not exist"):
        find_input_files([str(tmp_path / "missing.parquet")])

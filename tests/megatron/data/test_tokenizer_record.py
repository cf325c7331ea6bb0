"""The note of which tokenizer made a data set."""

import json
from pathlib import Path

import pytest

from megatron.data.indexed_dataset import IndexedDatasetWriter
from megatron.data.merge import merge
from megatron.data.shards import join_shards, split_file
from megatron.data.tokenizer_record import check_record, read_record, record_path, write_record
from megatron.errors import DataError
from megatron.tokenizer.tokenizer import build_tokenizer
from tests.helpers.tiny_tokenizer import write_tokenizer_json


def test_there_and_back(tmp_path: Path) -> None:
    tokenizer = build_tokenizer("HFTokenizer", write_tokenizer_json(tmp_path / "tokenizer.json"))
    assert read_record(tmp_path / "set") is None
    write_record(tmp_path / "set", tokenizer, append_eod=True)
    record = read_record(tmp_path / "set")
    assert record is not None
    assert (record.tokenizer, record.fingerprint, record.eod) == ("HFTokenizer", tokenizer.fingerprint, 0)
    assert (record.vocab_size, record.append_eod) == (tokenizer.vocab_size, True)
    assert [path.name for path in tmp_path.glob("set*")] == ["set.tokenizer.json"]


def test_data_without_a_record_pass(tmp_path: Path) -> None:
    check_record(tmp_path / "set", build_tokenizer("CharLevelTokenizer", None))


def test_one_changed_merge_is_another_tokenizer(tmp_path: Path) -> None:
    path = write_tokenizer_json(tmp_path / "tokenizer.json")
    write_record(tmp_path / "set", build_tokenizer("HFTokenizer", path), append_eod=False)
    content = json.loads(path.read_text())
    content["model"]["merges"].pop()
    path.write_text(json.dumps(content))
    with pytest.raises(DataError) as caught:
        check_record(tmp_path / "set", build_tokenizer("HFTokenizer", path))
    for words in (str(tmp_path / "set"), "another tokenizer", f"delete {record_path(tmp_path / 'set')}"):
        assert words in str(caught.value)


@pytest.mark.parametrize("content", ["", "[]", '{"fingerprint": "x"}', "\x00"])
def test_a_damaged_record_is_an_error(tmp_path: Path, content: str) -> None:
    record_path(tmp_path / "set").write_text(content)
    with pytest.raises(DataError, match=r"set\.tokenizer\.json: not a tokenizer record"):
        check_record(tmp_path / "set", build_tokenizer("CharLevelTokenizer", None))


def write_set(prefix: Path, ids: list[int]) -> Path:
    with IndexedDatasetWriter(prefix, vocab_size=512) as writer:
        writer.add_document(ids)
    return prefix


def test_the_record_goes_along_when_sets_are_merged_and_cut(tmp_path: Path) -> None:
    one, two = (write_set(tmp_path / name, [1, 2, 3]) for name in ("one", "two"))
    characters = build_tokenizer("CharLevelTokenizer", None)
    write_record(one, characters, append_eod=True)
    merge([one, two], tmp_path / "merged")
    assert read_record(tmp_path / "merged") is None  # nothing is known of the other half
    write_record(two, characters, append_eod=False)
    merge([one, two], tmp_path / "merged")
    record = read_record(tmp_path / "merged")
    assert record is not None
    assert (record.fingerprint, record.append_eod) == (characters.fingerprint, False)
    split_file(tmp_path / "merged.bin", tmp_path / "shards", 4)
    (tmp_path / "joined").mkdir()
    join_shards(tmp_path / "shards" / "merged", tmp_path / "joined")
    assert read_record(tmp_path / "shards" / "merged") == read_record(tmp_path / "joined" / "merged") == record


def test_sets_of_different_tokenizers_are_not_merged(tmp_path: Path) -> None:
    one, two = (write_set(tmp_path / name, [1, 2, 3]) for name in ("one", "two"))
    write_record(one, build_tokenizer("CharLevelTokenizer", None), append_eod=True)
    other = build_tokenizer("HFTokenizer", write_tokenizer_json(tmp_path / "tokenizer.json"))
    write_record(two, other, append_eod=True)
    with pytest.raises(DataError, match=r"two was made with HFTokenizer.*one with CharLevelTokenizer"):
        merge([one, two], tmp_path / "merged")
    assert not list(tmp_path.glob("merged*"))

"""Text to idxmap: ids against a plain loop, order and bytes for any number of workers, nothing lost in silence."""

import hashlib
import json
import multiprocessing
import os
import random
from pathlib import Path
from typing import Any

import pytest

from megatron.data.encode_documents import Encoder, EncodeSettings
from megatron.data.indexed_dataset import IndexedDataset
from megatron.data.preprocess import preprocess
from megatron.errors import DataError, PeerError
from megatron.tokenizer.tokenizer import build_tokenizer
from tests.helpers.shared import shared_folder
from tests.helpers.tiny_tokenizer import write_tokenizer_json


@pytest.fixture(scope="module")
def vocabulary(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(write_tokenizer_json(tmp_path_factory.mktemp("tokenizer") / "tokenizer.json"))


def settings(vocabulary: str, **given: Any) -> EncodeSettings:
    values = {"tokenizer_type": "HFTokenizer", "vocab_file": vocabulary, "merge_file": None, "keys": ("text",)}
    return EncodeSettings(**{**values, "append_eod": True, "ftfy": False, **given})


def write_lines(path: Path, *records: Any) -> Path:
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    return path


def read(prefix: Path) -> list[list[int]]:
    dataset = IndexedDataset(prefix)
    return [dataset.document(number).tolist() for number in range(dataset.num_documents)]


def test_ids_are_those_of_the_tokenizer(tmp_path: Path, vocabulary: str) -> None:
    texts = ["The lazy dog.\n", "caf\u00e9 \u65e5\u672c", "literal <|endoftext|> inside"]
    path = write_lines(tmp_path / "a.jsonl", *({"text": text} for text in texts))
    tokenizer = build_tokenizer("HFTokenizer", vocabulary)
    for append_eod in (True, False):
        result = preprocess([path], str(tmp_path / "out"), settings(vocabulary, append_eod=append_eod), workers=1)
        expected = [tokenizer.tokenize(text) + [tokenizer.eod] * append_eod for text in texts]
        assert read(tmp_path / "out_text_document") == expected
        assert (result.documents, result.tokens) == (3, sum(map(len, expected)))
        assert result.text_bytes == sum(len(text.encode()) for text in texts)
    assert not (tmp_path / "out_rejects.txt").exists()


@pytest.mark.multiprocess
def test_any_number_of_workers_writes_the_same_bytes(tmp_path: Path, vocabulary: str) -> None:
    draw = random.Random(2)
    words = ["The", "quick", "brown", "fox", "jumps", "over", "the", "lazy", "dog", "again"]
    path = tmp_path / "a.jsonl"
    with path.open("w") as file:
        for number in range(3000):
            text = " ".join(draw.choices(words, k=draw.randint(0, 120)))
            file.write("{broken\n" if number % 500 == 77 else json.dumps({"text": text}) + "\n")
    results = {}
    for workers in (1, 3):
        prefix = tmp_path / str(workers)
        result = preprocess([path], str(prefix), settings(vocabulary), workers)
        endings = ("_text_document.bin", "_text_document.idx", "_rejects.txt")
        results[workers] = ([Path(f"{prefix}{ending}").read_bytes() for ending in endings], result.documents)
        assert result.documents + result.rejected == 3000
        assert result.read_bytes == result.total_bytes == path.stat().st_size
    assert results[1] == results[3]


def test_what_cannot_be_used_is_listed_with_its_place(tmp_path: Path, vocabulary: str) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(
        b'{"text": "one"}\n\n{"txt": "two"}\n{"text": "\xff"}\n{"text": ""}\n{"text": "three"}\n{"text": "f'
    )
    result = preprocess([path], str(tmp_path / "out"), settings(vocabulary), workers=1)
    assert (result.documents, result.rejected) == (2, 4)
    assert result.rejects_path
    lines = result.rejects_path.read_text().splitlines()
    assert [line.split(": ")[0] for line in lines] == [f"{path}:{place}" for place in ("3:17", "4:42", "5:46", "7:86")]
    assert "no key 'text'; the keys are 'txt'" in lines[0]
    assert result.first_reject == lines[0]
    write_lines(path, {"text": "all is well"})
    preprocess([path], str(tmp_path / "out"), settings(vocabulary), workers=1)
    assert not (tmp_path / "out_rejects.txt").exists()


def test_the_list_of_rejects_has_an_end(tmp_path: Path, vocabulary: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("megatron.data.rejects_file.LISTED_REJECTS", 3)
    path = write_lines(tmp_path / "a.jsonl", {"text": "good"}, *[{}] * 7)
    assert preprocess([path], str(tmp_path / "out"), settings(vocabulary), workers=1).rejected == 7
    assert (tmp_path / "out_rejects.txt").read_text().splitlines()[3:] == ["and 4 more"]


def test_several_keys_stay_side_by_side(tmp_path: Path, vocabulary: str) -> None:
    """A document that lacks one of the keys is left out of all, so that document i is document i in each set."""
    records = [{"q": "a", "r": "fox"}, {"q": "b"}, {"q": "c", "r": ""}, {"q": "dog", "r": "d"}]
    path = write_lines(tmp_path / "a.jsonl", *records)
    result = preprocess(
        [path], str(tmp_path / "out"), settings(vocabulary, keys=("q", "r"), append_eod=False), workers=1
    )
    tokenizer = build_tokenizer("HFTokenizer", vocabulary)
    assert read(tmp_path / "out_q_document") == [tokenizer.tokenize("a"), tokenizer.tokenize("dog")]
    assert read(tmp_path / "out_r_document") == [tokenizer.tokenize("fox"), tokenizer.tokenize("d")]
    assert result.rejected == 2


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ('{"content": "a"}\n', [":1:0: no key 'text'; the keys are 'content'", "--jsonl-keys"]),
        ("\n \n", ["nothing but blank lines"]),
        ("", ["the file is empty"]),
        ("plain text\n", [":1:0: not JSON"]),
    ],
)
def test_nothing_usable_is_an_error_and_leaves_no_data_set(
    tmp_path: Path, vocabulary: str, content: str, words: list[str]
) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text(content)
    with pytest.raises(DataError) as caught:
        preprocess([path], str(tmp_path / "out"), settings(vocabulary), workers=1)
    for word in [str(path), *words]:
        assert word in str(caught.value)
    assert not list(tmp_path.glob("*document*"))


@pytest.mark.multiprocess
@pytest.mark.parametrize("workers", [1, 4])
def test_goldens(tmp_path: Path, workers: int) -> None:
    """Byte for byte what GPT-NeoX's tool writes."""
    folder = shared_folder("reference", "goldens_data")
    vocabulary = str(shared_folder("data", "20B_tokenizer.json"))
    for name, append_eod in (("a", True), ("b", False), ("c", True)):
        source = folder / "src" / f"{name}.jsonl"
        preprocess([source], str(tmp_path / name), settings(vocabulary, append_eod=append_eod), workers)
        for ending in ("bin", "idx"):
            file = f"{name}_text_document.{ending}"
            assert (tmp_path / file).read_bytes() == (folder / "idxmap" / file).read_bytes()


@pytest.mark.parametrize(("variant", "names"), [("ac", ("a", "c")), ("aftfy", ("a",))])
def test_golden_variants(tmp_path: Path, variant: str, names: tuple[str, ...]) -> None:
    folder = shared_folder("reference", "goldens_data")
    vocabulary = str(shared_folder("data", "20B_tokenizer.json"))
    if variant == "aftfy":
        pytest.importorskip("ftfy")
    files = [folder / "src" / f"{name}.jsonl" for name in names]
    preprocess(files, str(tmp_path / variant), settings(vocabulary, ftfy=variant == "aftfy"), workers=1)
    hashes = json.loads((folder / "expect.json").read_text())["variant_sha256"][variant]
    for ending, expected in zip(("bin", "idx"), hashes, strict=True):
        content = (tmp_path / f"{variant}_text_document.{ending}").read_bytes()
        assert hashlib.sha256(content).hexdigest() == expected


@pytest.mark.multiprocess
@pytest.mark.skipif("fork" not in multiprocessing.get_all_start_methods(), reason="the sabotage is inherited by fork")
def test_a_dead_worker_is_noticed_and_leaves_no_data_set(
    tmp_path: Path, vocabulary: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Encoder, "encode_blocks", lambda self, documents: os._exit(9))
    path = write_lines(tmp_path / "a.jsonl", {"text": "a"})
    with pytest.raises(PeerError, match="A worker process died"):
        preprocess([path], str(tmp_path / "out"), settings(vocabulary), workers=2)
    assert not list(tmp_path.glob("out*document*"))

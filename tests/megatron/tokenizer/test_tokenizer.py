"""Every tokenizer kind: ids against its own library, there and back, and what is said when something is missing."""

import math
import subprocess
import sys
from pathlib import Path

import pytest
import tokenizers
from hypothesis import given
from hypothesis import strategies as st

from megatron.errors import DataError, SettingsError
from megatron.tokenizer.tokenizer import build_tokenizer, padded_vocab_size
from tests.helpers.shared import shared_folder
from tests.helpers.tiny_tokenizer import TEXTS, write_gpt2_files, write_tokenizer_json


@pytest.fixture(scope="module")
def tokenizer_json(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tokenizer_json(tmp_path_factory.mktemp("tokenizer") / "tokenizer.json")


def test_hugging_face_ids_are_those_of_the_library(tokenizer_json: Path) -> None:
    ours = build_tokenizer("HFTokenizer", tokenizer_json)
    library = tokenizers.Tokenizer.from_file(str(tokenizer_json))
    for text in [*TEXTS, "", " ", "a<|endoftext|>b"]:
        assert ours.tokenize(text) == library.encode(text).ids
    assert ours.tokenize_batch(TEXTS) == [ours.tokenize(text) for text in TEXTS]
    assert ours.detokenize(ours.tokenize(TEXTS[1])) == TEXTS[1]
    assert (ours.vocab_size, ours.eod) == (library.get_vocab_size(), 0)


def test_special_tokens_show_only_on_request(tokenizer_json: Path) -> None:
    tokenizer = build_tokenizer("HFTokenizer", tokenizer_json)
    ids = [*tokenizer.tokenize("fox"), tokenizer.eod]
    assert tokenizer.detokenize(ids) == "fox"
    assert tokenizer.detokenize(ids, keep_special=True) == "fox<|endoftext|>"


def test_a_folder_with_a_tokenizer_json_will_do(tokenizer_json: Path) -> None:
    assert build_tokenizer("HFTokenizer", tokenizer_json.parent).tokenize("fox")


def test_truncation_and_padding_stored_in_the_file_are_ignored(tmp_path: Path, tokenizer_json: Path) -> None:
    library = tokenizers.Tokenizer.from_file(str(tokenizer_json))
    library.enable_truncation(3)
    library.enable_padding(length=50)
    library.save(str(tmp_path / "cutting.json"))
    cutting = build_tokenizer("HFTokenizer", tmp_path / "cutting.json")
    assert cutting.tokenize(TEXTS[0]) == build_tokenizer("HFTokenizer", tokenizer_json).tokenize(TEXTS[0])


def test_gpt2_files_give_the_same_ids_as_the_json(tmp_path: Path, tokenizer_json: Path) -> None:
    vocabulary, merges = write_gpt2_files(tmp_path)
    for kind in ("GPT2BPETokenizer", "HFGPT2Tokenizer"):
        bpe = build_tokenizer(kind, vocabulary, merges)
        whole = build_tokenizer("HFTokenizer", tokenizer_json)
        for text in TEXTS:
            assert bpe.tokenize(text) == whole.tokenize(text)
        assert bpe.detokenize(bpe.tokenize(TEXTS[0])) == TEXTS[0]
        assert bpe.tokenize("a<|endoftext|>")[-1] == bpe.eod == 0


@given(st.text())
def test_char_level_is_bytes(text: str) -> None:
    tokenizer = build_tokenizer("CharLevelTokenizer", None)
    encodable = text.encode("utf-8", "ignore").decode()
    ids = tokenizer.tokenize(encodable)
    assert ids == list(encodable.encode())
    assert tokenizer.detokenize(ids, keep_special=True) == encodable
    assert max(ids, default=0) < tokenizer.vocab_size


def test_char_level_survives_ids_of_no_byte() -> None:
    assert build_tokenizer("CharLevelTokenizer", None).detokenize([72, 400, 0, 105]) == "H\N{REPLACEMENT CHARACTER}i"


def test_sentence_piece(tmp_path: Path) -> None:
    sentencepiece = pytest.importorskip("sentencepiece")
    text = tmp_path / "text.txt"
    text.write_text((TEXTS[0] + "And the fox sleeps.\n") * 50, encoding="utf-8")
    model = tmp_path / "spm"
    sentencepiece.SentencePieceTrainer.train(input=str(text), model_prefix=str(model), vocab_size=40, minloglevel=2)
    tokenizer = build_tokenizer("SPMTokenizer", f"{model}.model")
    ids = tokenizer.tokenize("the lazy fox")
    assert tokenizer.detokenize([*ids, tokenizer.eod]) == "the lazy fox"
    assert tokenizer.tokenize_batch(["the lazy fox"]) == [ids]
    assert tokenizer.vocab_size == 40


def test_tiktoken(tmp_path: Path) -> None:
    pytest.importorskip("tiktoken")
    import base64

    ranks = [bytes([byte]) for byte in range(256)] + [b"th", b"the"]
    path = tmp_path / "tiny.tiktoken"
    path.write_bytes(b"".join(base64.b64encode(token) + b" %d\n" % rank for rank, token in enumerate(ranks)))
    tokenizer = build_tokenizer("TiktokenTokenizer", path)
    assert tokenizer.tokenize("the<|endoftext|>") == [257, 258]
    assert (tokenizer.vocab_size, tokenizer.eod) == (259, 258)
    assert tokenizer.detokenize([257, 258]) == "the"
    path.write_bytes(b"YQ== 0\n!! 1\n")
    with pytest.raises(DataError, match=r"tiny\.tiktoken:2"):
        build_tokenizer("TiktokenTokenizer", path)


@pytest.mark.parametrize(("kind", "package"), [("SPMTokenizer", "sentencepiece"), ("TiktokenTokenizer", "tiktoken")])
def test_a_missing_package_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, package: str) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    (tmp_path / "model").write_bytes(b"x")
    with pytest.raises(SettingsError, match=f"pip install {package}"):
        build_tokenizer(kind, tmp_path / "model")


def test_errors_name_the_setting_and_the_file(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"'HFTokeniser' is unknown.*HFTokenizer"):
        build_tokenizer("HFTokeniser", None)
    with pytest.raises(SettingsError, match="HFTokenizer needs vocab_file, which is not set"):
        build_tokenizer("HFTokenizer", None)
    with pytest.raises(SettingsError, match=r"vocab_file: .*absent\.json does not exist"):
        build_tokenizer("HFTokenizer", tmp_path / "absent.json")
    with pytest.raises(SettingsError, match="is a folder"):
        build_tokenizer("HFTokenizer", tmp_path)
    vocabulary, _ = write_gpt2_files(tmp_path)
    with pytest.raises(SettingsError, match="needs merge_file"):
        build_tokenizer("GPT2BPETokenizer", vocabulary)
    (tmp_path / "damaged.json").write_text('{"model": ')
    with pytest.raises(DataError, match=r"damaged\.json: not a tokenizer\.json"):
        build_tokenizer("HFTokenizer", tmp_path / "damaged.json")
    with pytest.raises(DataError, match="not a GPT-2 vocabulary"):
        build_tokenizer("GPT2BPETokenizer", tmp_path / "damaged.json", vocabulary)


@pytest.mark.parametrize("end", ["<|end_of_text|>", "</s>", "<eos>"])
def test_other_names_of_the_end_of_a_document(tmp_path: Path, end: str) -> None:
    tokenizer = build_tokenizer("HFTokenizer", write_tokenizer_json(tmp_path / "llama.json", special=end))
    assert tokenizer.detokenize([tokenizer.eod], keep_special=True) == end


def test_a_vocabulary_without_end_of_document_is_refused(tmp_path: Path) -> None:
    path = write_tokenizer_json(tmp_path / "other.json", special="<|unknown|>")
    with pytest.raises(DataError, match=r"other\.json: the vocabulary has no token '<\|endoftext\|>'"):
        build_tokenizer("HFTokenizer", path)


def test_fingerprint_follows_the_content_not_the_name(tmp_path: Path, tokenizer_json: Path) -> None:
    copy = tmp_path / "copy.json"
    copy.write_bytes(tokenizer_json.read_bytes())
    first = build_tokenizer("HFTokenizer", tokenizer_json).fingerprint
    assert build_tokenizer("HFTokenizer", copy).fingerprint == first
    copy.write_bytes(tokenizer_json.read_bytes() + b"\n")
    assert build_tokenizer("HFTokenizer", copy).fingerprint != first


@given(st.integers(1, 70_000), st.integers(1, 300), st.integers(1, 12))
def test_padded_vocab_size_is_the_next_common_multiple(vocab_size: int, divisible_by: int, tp_size: int) -> None:
    padded = padded_vocab_size(vocab_size, divisible_by, tp_size)
    step = math.lcm(divisible_by, tp_size)
    assert padded % divisible_by == padded % tp_size == 0
    assert vocab_size <= padded < vocab_size + step


def test_pythia_vocabulary() -> None:
    tokenizer = build_tokenizer("HFTokenizer", shared_folder("data", "20B_tokenizer.json"))
    assert (tokenizer.vocab_size, tokenizer.eod) == (50277, 0)
    assert padded_vocab_size(tokenizer.vocab_size, 128, 1) == 50304
    assert [tokenizer.tokenize(mark) for mark in ".,?\n"] == [[15], [13], [32], [187]]
    assert tokenizer.fingerprint.startswith("56ac4821e129d2c5")


def test_no_torch_is_imported(tokenizer_json: Path) -> None:
    code = (
        "import sys; from megatron.tokenizer.tokenizer import build_tokenizer; "
        f"build_tokenizer('HFTokenizer', {str(tokenizer_json)!r}).tokenize('a'); "
        "sys.exit(any(name in sys.modules for name in ('torch', 'transformers', 'deepspeed')))"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[3]).returncode == 0

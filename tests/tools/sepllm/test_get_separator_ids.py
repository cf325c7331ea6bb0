"""tools/sepllm/get_separator_ids.py: plain and merged forms for any tokenizer, shares and kept ratios, errors."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from megatron.errors import SettingsError
from tests.helpers.shared import shared_folder
from tools.sepllm.get_separator_ids import find_candidates, kept_ratios
from tools.sepllm.vocabulary import read_vocabulary

ROOT = Path(__file__).resolve().parents[3]
PIECES = ["[END]", "a", "b", ".", " .", "\n", "\n\n", " ", "  ", ".b", ", .", " a"]


def _byte_level(piece: str) -> str:
    return piece.replace(" ", "Ġ").replace("\n", "Ċ")


@pytest.fixture
def byte_level(tmp_path: Path) -> Path:
    """A GPT-2 like tokenizer whose tokens are PIECES."""
    vocabulary = {_byte_level(piece): number for number, piece in enumerate(PIECES)}
    tokenizer = Tokenizer(models.BPE(vocabulary, [("Ċ", "Ċ"), ("Ġ", "."), ("Ġ", "Ġ"), ("Ġ", "a")]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(["[END]"])
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    return tmp_path


def test_plain_and_merged_forms(byte_level: Path) -> None:
    vocabulary = read_vocabulary(byte_level)
    assert [vocabulary.pieces[number] for number in range(1, len(PIECES))] == PIECES[1:]
    found = find_candidates(vocabulary, [".", "\n"], vocabulary.encode("a .b.\n\na .\n"))
    assert [(c.text, c.plain, c.count) for c in found] == [
        (".", True, 1),
        ("\n", True, 1),
        (" .", False, 2),
        ("\n\n", False, 1),
    ]


def test_blanks_count_where_a_blank_is_wanted(byte_level: Path) -> None:
    found = find_candidates(read_vocabulary(byte_level), [" "], [])
    assert [(c.text, c.plain) for c in found] == [(" ", True), ("  ", False)]


def test_a_tokenizer_that_drops_blanks_at_the_start(tmp_path: Path) -> None:
    """As those of Llama: the blank is part of the token, and decoding alone hides it."""
    vocabulary = {"<unk>": 0, "▁": 1, "a": 2, "▁a": 3, ".": 4, "▁.": 5, "b": 6}
    tokenizer = Tokenizer(models.BPE(vocabulary, [("▁", "a"), ("▁", ".")], unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
    tokenizer.decoder = decoders.Metaspace(prepend_scheme="first")
    file = tmp_path / "tokenizer.json"
    tokenizer.save(str(file))
    found = find_candidates(read_vocabulary(file), ["."], [])
    assert [(c.id, c.text, c.plain) for c in found] == [(4, ".", True), (5, " .", False)]


def test_kept_ratio_counts_pairs_of_the_rule() -> None:
    # One row of four: separator at 1, window 1, no initial tokens: pairs (0,0) (1,1) (2,1) (2,2) (3,1) (3,3) of 10.
    assert kept_ratios([8, 9, 8, 8], [9], [1, 4], 2048, 0) == {1: 0.6, 4: 1.0}


def test_the_command(byte_level: Path) -> None:
    text = byte_level / "text.txt"
    text.write_text("a .b.\n\na .\n" * 50, encoding="utf-8")
    command = [sys.executable, str(ROOT / "tools" / "sepllm" / "get_separator_ids.py"), "--tokenizer", str(byte_level)]
    told = subprocess.run([*command, "--text", str(text)], capture_output=True, text=True, check=True).stdout
    assert "separator_token_ids: [3, 5" in told and "kept of full attention" in told and "'?' has no token" in told
    wanted = [*command, "--separators", ".", "\\n", "--json"]
    report = json.loads(subprocess.run(wanted, capture_output=True, text=True, check=True).stdout)
    assert report["separator_token_ids"] == {"plain": [3, 5], "plain_and_merged": [3, 5, 4, 6]}
    wrong = subprocess.run([*command, "--separators", "?"], capture_output=True, text=True)
    assert wrong.returncode == 2 and "['?']" in wrong.stderr
    missing = subprocess.run([*command, "--text", "no/such.txt"], capture_output=True, text=True)
    assert missing.returncode == 3 and "no/such.txt" in missing.stderr


def test_no_tokenizer_there(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="does not exist"):
        read_vocabulary(tmp_path / "nowhere")
    (tmp_path / "broken.json").write_text("{}")
    with pytest.raises(SettingsError, match=r"no tokenizer\.json"):
        read_vocabulary(tmp_path / "broken.json")


def test_the_nine_of_the_published_models() -> None:
    vocabulary = read_vocabulary(shared_folder("data", "20B_tokenizer.json"))
    found = find_candidates(vocabulary, [".", ",", "?", "!", ";", ":", " ", "\t", "\n"], [])
    assert {c.id for c in found if c.plain} == {15, 13, 32, 2, 28, 27, 209, 186, 187}
    assert " ." in {c.text for c in found if not c.plain}

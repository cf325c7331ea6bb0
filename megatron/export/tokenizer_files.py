"""The tokenizer of an exported folder: tokenizer.json and the two files that transformers reads beside it."""

import json
from collections.abc import Mapping
from pathlib import Path

import tokenizers
from tokenizers import AddedToken, decoders, models, pre_tokenizers

from megatron.errors import SettingsError
from megatron.tokenizer.char_level import CharLevelTokenizer
from megatron.tokenizer.hugging_face import HuggingFaceTokenizer
from megatron.tokenizer.tokenizer import Tokenizer


def write_tokenizer(tokenizer: Tokenizer, folder: Path, max_length: int) -> None:
    """Write the tokenizer so that AutoTokenizer gives the same ids as ours.

    The end-of-document token is also beginning, end and padding: the model was trained with no other.
    Raises SettingsError for kinds that have no tokenizer.json form.
    """
    backend = _backend(tokenizer)
    backend.save(str(folder / "tokenizer.json"))
    end = backend.id_to_token(tokenizer.eod)
    special = {"bos_token": end, "eos_token": end, "unk_token": end, "pad_token": end}
    settings = {
        **special,
        # transformers 5 would write TokenizersBackend, which transformers 4 does not know.
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": max_length,
        "add_bos_token": False,
        "clean_up_tokenization_spaces": False,
        "padding_side": "left",
        # transformers 4 would add token_type_ids, which generate() then refuses.
        "model_input_names": ["input_ids", "attention_mask"],
    }
    _write(folder / "tokenizer_config.json", settings)
    _write(folder / "special_tokens_map.json", special)


def _backend(tokenizer: Tokenizer) -> tokenizers.Tokenizer:
    if isinstance(tokenizer, HuggingFaceTokenizer):
        return tokenizer.backend
    if isinstance(tokenizer, CharLevelTokenizer):
        return _bytes_as_tokens(tokenizer)
    raise SettingsError(
        f"tokenizer_type {tokenizer.name} cannot be written as tokenizer.json, which the exported folder needs. "
        "Train with an HFTokenizer or GPT2BPETokenizer, or convert the vocabulary to tokenizer.json first."
    )


def _bytes_as_tokens(tokenizer: CharLevelTokenizer) -> tokenizers.Tokenizer:
    """Byte-level BPE without merges: one token per byte, ids equal to the bytes."""
    backend = tokenizers.Tokenizer(models.BPE({_byte_character(byte): byte for byte in range(256)}, []))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens([AddedToken(_byte_character(tokenizer.eod), special=True, normalized=False)])
    return backend


def _byte_character(byte: int) -> str:
    """GPT-2's visible stand-in for a byte: itself if printable, else the next free code point from 256 on."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    if byte in printable:
        return chr(byte)
    return chr(256 + [other for other in range(256) if other not in printable].index(byte))


def _write(path: Path, content: Mapping[str, object]) -> None:
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")

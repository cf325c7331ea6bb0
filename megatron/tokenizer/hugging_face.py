"""Tokenizers of the `tokenizers` library: a whole tokenizer.json, or GPT-2's vocab.json with merges.txt."""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path

import tokenizers
from tokenizers import AddedToken, decoders, models, pre_tokenizers

from megatron.errors import DataError
from megatron.tokenizer.vocabulary_file import (
    END_OF_DOCUMENT,
    OTHER_ENDS,
    required_end_of_document,
    sha256_of_files,
)


class HuggingFaceTokenizer:
    """A loaded `tokenizers.Tokenizer` with the sizes and ids that training needs.

    Text becomes its own tokens only: what a post-processor would add around it (LLaMA's `<s>`) is left out.
    """

    def __init__(self, backend: tokenizers.Tokenizer, name: str, *files: Path) -> None:
        backend.no_padding()
        backend.no_truncation()
        self.name = name
        self.backend = backend
        # Vocabularies may have holes, so their length alone does not bound the ids.
        self.vocab_size = max(backend.get_vocab_size(), 1 + max(backend.get_vocab().values(), default=-1))
        ends = (backend.token_to_id(end) for end in (END_OF_DOCUMENT, *OTHER_ENDS))
        self.eod = required_end_of_document(next((end for end in ends if end is not None), None), files[0])
        self.fingerprint = sha256_of_files(*files)

    def tokenize(self, text: str) -> list[int]:
        return self.backend.encode(text, add_special_tokens=False).ids

    def tokenize_batch(self, texts: Sequence[str]) -> list[list[int]]:
        # The fast form leaves out character offsets: same ids, about a quarter faster.
        return [encoding.ids for encoding in self.backend.encode_batch_fast(list(texts), add_special_tokens=False)]

    def detokenize(self, ids: Iterable[int], *, keep_special: bool = False) -> str:
        return self.backend.decode(list(ids), skip_special_tokens=not keep_special)


def tokenizer_json(path: Path) -> HuggingFaceTokenizer:
    """Load a `tokenizer.json`; DataError when it is none."""
    try:
        backend = tokenizers.Tokenizer.from_file(str(path))
    except Exception as error:  # tokenizers raises bare Exception for everything it cannot read
        raise DataError(f"{path}: not a tokenizer.json of the `tokenizers` library ({error}).") from error
    return HuggingFaceTokenizer(backend, "HFTokenizer", path)


def byte_level_bpe(vocab_file: Path, merge_file: Path) -> HuggingFaceTokenizer:
    """GPT-2's byte-level BPE from its two files: vocab.json (token to id) and merges.txt."""
    try:
        vocabulary = json.loads(vocab_file.read_text(encoding="utf-8"))
        merges = [
            (pair[0], pair[1])
            for line in merge_file.read_text(encoding="utf-8").split("\n")
            if line and not line.startswith("#version") and len(pair := line.rstrip("\r").split(" ")) == 2
        ]
        backend = tokenizers.Tokenizer(models.BPE(vocabulary, merges))
    except Exception as error:  # tokenizers raises bare Exception, e.g. for a merge of unknown parts
        raise DataError(f"{vocab_file} and {merge_file}: not a GPT-2 vocabulary and its merges ({error}).") from error
    required_end_of_document(vocabulary.get(END_OF_DOCUMENT), vocab_file)
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens([AddedToken(END_OF_DOCUMENT, special=True)])
    return HuggingFaceTokenizer(backend, "GPT2BPETokenizer", vocab_file, merge_file)

"""tiktoken vocabularies (`TiktokenTokenizer`) read from a file; the package is optional and asked for when used."""

import base64
import binascii
from collections.abc import Iterable, Sequence
from pathlib import Path

from megatron.errors import DataError, SettingsError
from megatron.tokenizer.vocabulary_file import END_OF_DOCUMENT, sha256_of_files

# The split of GPT-4's cl100k_base, as published with tiktoken (tiktoken_ext/openai_public.py).
SPLIT = (
    r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}++|\p{N}{1,3}+| ?[^\s\p{L}\p{N}]++[\r\n]*+|\s++$"
    r"|\s*[\r\n]|\s+(?!\S)|\s"
)


class TiktokenTokenizer:
    """A `.tiktoken` file (lines of base64 token and rank), cl100k's split; `<|endoftext|>` follows the last rank."""

    name = "TiktokenTokenizer"

    def __init__(self, path: Path) -> None:
        try:
            import tiktoken
        except ImportError as error:
            raise SettingsError("TiktokenTokenizer needs a package: pip install tiktoken") from error
        ranks = _read_ranks(path)
        self.eod = 1 + max(ranks.values())
        self.vocab_size = self.eod + 1
        self.encoding = tiktoken.Encoding(
            path.stem, pat_str=SPLIT, mergeable_ranks=ranks, special_tokens={END_OF_DOCUMENT: self.eod}
        )
        self.fingerprint = sha256_of_files(path)

    def tokenize(self, text: str) -> list[int]:
        return self.encoding.encode(text, allowed_special="all")

    def tokenize_batch(self, texts: Sequence[str]) -> list[list[int]]:
        return [self.tokenize(text) for text in texts]

    def detokenize(self, ids: Iterable[int], *, keep_special: bool = False) -> str:
        return self.encoding.decode([i for i in ids if keep_special or i != self.eod])


def _read_ranks(path: Path) -> dict[bytes, int]:
    ranks: dict[bytes, int] = {}
    for number, line in enumerate(path.read_bytes().splitlines(), start=1):
        try:
            token, rank = line.split()
            ranks[base64.b64decode(token, validate=True)] = int(rank)
        except (ValueError, binascii.Error) as error:
            raise DataError(f"{path}:{number}: expected a base64 token and its rank, found {line[:60]!r}.") from error
    if not ranks:
        raise DataError(f"{path}: no tokens in it; expected lines of a base64 token and its rank.")
    return ranks

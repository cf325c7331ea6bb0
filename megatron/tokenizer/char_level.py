"""One id per byte of UTF-8: needs no vocabulary file; made for tests and toy runs."""

import hashlib
from collections.abc import Iterable, Sequence


class CharLevelTokenizer:
    """Ids 0..255 are bytes; the vocabulary counts 512 as in GPT-NeoX, and 0 ends a document."""

    name = "CharLevelTokenizer"
    vocab_size = 512
    eod = 0
    fingerprint = hashlib.sha256(b"CharLevelTokenizer: utf-8 bytes, 512 ids, end of document 0").hexdigest()

    def tokenize(self, text: str) -> list[int]:
        return list(text.encode("utf-8"))

    def tokenize_batch(self, texts: Sequence[str]) -> list[list[int]]:
        return [self.tokenize(text) for text in texts]

    def detokenize(self, ids: Iterable[int], *, keep_special: bool = False) -> str:
        """Bytes to text; ids that are no byte, and bytes that are no UTF-8, become U+FFFD."""
        pieces = [bytes([i]) if i < 256 else "\N{REPLACEMENT CHARACTER}".encode() for i in ids if keep_special or i]
        return b"".join(pieces).decode("utf-8", errors="replace")

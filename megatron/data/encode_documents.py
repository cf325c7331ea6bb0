"""Tokenise blocks of raw documents: the work of one worker process. No torch."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from megatron.data.indexed_dataset import token_dtype
from megatron.data.text_files import Block, RawDocument
from megatron.data.text_records import UnusableDocument, texts_of
from megatron.errors import SettingsError
from megatron.tokenizer.fast_bpe import choose_encoder
from megatron.tokenizer.tokenizer import Tokenizer, build_tokenizer


@dataclass(frozen=True)
class EncodeSettings:
    """How text becomes ids. keys: the JSON keys, each of which becomes a data set.  fast: look for a faster encoder."""

    tokenizer_type: str
    vocab_file: str | None
    merge_file: str | None
    keys: tuple[str, ...]
    append_eod: bool
    ftfy: bool
    fast: bool = True


@dataclass(frozen=True)
class Encoded:
    """Ids and document sizes per key, and what was left out as `place: reason`.

    ids: one array per key, all documents joined.  sizes: int32 per document, one array per key.
    """

    ids: list[np.ndarray]
    sizes: list[np.ndarray]
    text_bytes: int
    rejects: list[str]

    @property
    def num_documents(self) -> int:
        return len(self.sizes[0])


class Encoder:
    """Turns documents into ids; the same documents give the same ids anywhere.

    `about` names the library at work. `encode` raises EncodersDisagree when the fast one is found out.
    """

    def __init__(self, settings: EncodeSettings) -> None:
        self.settings = settings
        self.tokenizer: Tokenizer = build_tokenizer(settings.tokenizer_type, settings.vocab_file, settings.merge_file)
        self.dtype = token_dtype(self.tokenizer.vocab_size)
        self.repair: Callable[[str], str] | None = _ftfy() if settings.ftfy else None
        self.fast, self.about = choose_encoder(self.tokenizer) if settings.fast else (None, _PLAIN)

    def encode_blocks(self, blocks: Sequence[Block]) -> Encoded:
        """The documents of all `blocks`, in order."""
        return self.encode([document for block in blocks for document in block.documents()])

    def encode(self, documents: Sequence[RawDocument]) -> Encoded:
        rejects: list[tuple[int, str]] = []
        rows: list[tuple[int, list[str]]] = []
        for number, document in enumerate(documents):
            try:
                texts = texts_of(document, self.settings.keys)
            except UnusableDocument as reason:
                rejects.append((number, f"{document.place(reason.offset)}: {reason}"))
            else:
                if texts is not None:
                    rows.append((number, [self.repair(text) for text in texts] if self.repair else texts))
        columns = [self._tokenize([texts[k] for _, texts in rows]) for k in range(len(self.settings.keys))]
        kept = []
        for row, (number, _) in enumerate(rows):
            if all(len(column[row]) for column in columns):
                kept.append(row)
            else:
                rejects.append((number, f"{documents[number].place()}: the text has no tokens"))
        ids, sizes = [], []
        for column in columns:
            joined, lengths = self._joined([column[row] for row in kept])
            ids.append(joined)
            sizes.append(lengths)
        text_bytes = sum(len(text.encode()) for row in kept for text in rows[row][1])
        return Encoded(ids, sizes, text_bytes, [text for _, text in sorted(rejects)])

    def _tokenize(self, texts: list[str]) -> Sequence[Sequence[int] | np.ndarray]:
        return self.fast.encode(texts) if self.fast else self.tokenizer.tokenize_batch(texts)

    def _joined(self, documents: Sequence[Sequence[int] | np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        """Ids of all documents with their end marks, and how many belong to each."""
        end = int(self.settings.append_eod)
        sizes = np.array([len(document) + end for document in documents], dtype=np.int32)
        ids = np.full(int(sizes.sum()), self.tokenizer.eod, self.dtype)
        stop = 0
        for document, size in zip(documents, sizes.tolist(), strict=True):
            ids[stop : stop + size - end] = document
            stop += size
        return ids, sizes


_PLAIN = "encoder: the tokenizer's own, encode_batch_fast where it is a `tokenizers` one"


def _ftfy() -> Callable[[str], str]:
    try:
        import ftfy
    except ImportError as error:
        raise SettingsError("--ftfy needs a package: pip install ftfy") from error
    return ftfy.fix_text

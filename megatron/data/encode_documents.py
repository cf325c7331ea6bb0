"""Tokenise raw documents: the work of one worker process on one chunk. No torch."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np

from megatron.data.indexed_dataset import token_dtype
from megatron.data.text_files import RawDocument
from megatron.data.text_records import UnusableDocument, texts_of
from megatron.errors import SettingsError
from megatron.tokenizer.tokenizer import Tokenizer, build_tokenizer


@dataclass(frozen=True)
class EncodeSettings:
    """How text becomes ids. `keys`: the JSON keys, each of which becomes a data set."""

    tokenizer_type: str
    vocab_file: str | None
    merge_file: str | None
    keys: tuple[str, ...]
    append_eod: bool
    ftfy: bool


@dataclass(frozen=True)
class Encoded:
    """Ids and document sizes per key, and what was left out as (file, line, reason).

    ids: one array per key, all documents joined.  sizes: int32 per document, one array per key.
    """

    ids: list[np.ndarray]
    sizes: list[np.ndarray]
    text_bytes: int
    rejects: list[tuple[str, int, str]]

    @property
    def num_documents(self) -> int:
        return len(self.sizes[0])


class Encoder:
    """Turns chunks of documents into ids; the same chunk gives the same ids anywhere."""

    def __init__(self, settings: EncodeSettings) -> None:
        self.settings = settings
        self.tokenizer: Tokenizer = build_tokenizer(settings.tokenizer_type, settings.vocab_file, settings.merge_file)
        self.dtype = token_dtype(self.tokenizer.vocab_size)
        self.repair: Callable[[str], str] = _ftfy() if settings.ftfy else str

    def encode(self, documents: Sequence[RawDocument]) -> Encoded:
        rejects: list[tuple[str, int, str]] = []
        rows: list[tuple[RawDocument, list[str]]] = []
        for document in documents:
            try:
                texts = texts_of(document, self.settings.keys)
            except UnusableDocument as reason:
                rejects.append((document.path, document.line, str(reason)))
            else:
                if texts is not None:
                    rows.append((document, [self.repair(text) for text in texts]))
        columns = [self.tokenizer.tokenize_batch([texts[k] for _, texts in rows]) for k in range(self._num_keys)]
        kept = []
        for number, (document, _) in enumerate(rows):
            if all(column[number] for column in columns):
                kept.append(number)
            else:
                rejects.append((document.path, document.line, "the text has no tokens"))
        end = [self.tokenizer.eod] if self.settings.append_eod else []
        ids, sizes = [], []
        for column in columns:
            chosen = [column[number] + end for number in kept]
            sizes.append(np.array([len(document) for document in chosen], dtype=np.int32))
            ids.append(np.fromiter(chain.from_iterable(chosen), self.dtype, int(sizes[-1].sum())))
        text_bytes = sum(len(text.encode()) for number in kept for text in rows[number][1])
        return Encoded(ids, sizes, text_bytes, sorted(rejects, key=lambda reject: reject[:2]))

    @property
    def _num_keys(self) -> int:
        return len(self.settings.keys)


def _ftfy() -> Callable[[str], str]:
    try:
        import ftfy
    except ImportError as error:
        raise SettingsError("--ftfy needs a package: pip install ftfy") from error
    return ftfy.fix_text

"""SentencePiece models (`SPMTokenizer`); the package is optional and only asked for when used."""

from collections.abc import Iterable, Sequence
from pathlib import Path

from megatron.errors import DataError, SettingsError
from megatron.tokenizer.vocabulary_file import END_OF_DOCUMENT, required_end_of_document, sha256_of_files


class SentencePieceTokenizer:
    """A `.model` file. The piece `<|endoftext|>` ends a document, or else the model's own end-of-sentence id."""

    name = "SPMTokenizer"

    def __init__(self, path: Path) -> None:
        try:
            import sentencepiece
        except ImportError as error:
            raise SettingsError("SPMTokenizer needs a package: pip install sentencepiece") from error
        try:
            self.model = sentencepiece.SentencePieceProcessor(model_file=str(path))
        except (OSError, RuntimeError) as error:
            raise DataError(f"{path}: not a SentencePiece model ({error}).") from error
        self.vocab_size = self.model.get_piece_size()
        piece = self.model.piece_to_id(END_OF_DOCUMENT)
        candidates = (None if piece == self.model.unk_id() else piece, self.model.eos_id())
        self.eod = required_end_of_document(next((i for i in candidates if i is not None and i >= 0), None), path)
        self.fingerprint = sha256_of_files(path)

    def tokenize(self, text: str) -> list[int]:
        return self.model.encode(text)

    def tokenize_batch(self, texts: Sequence[str]) -> list[list[int]]:
        return self.model.encode(list(texts))

    def detokenize(self, ids: Iterable[int], *, keep_special: bool = False) -> str:
        return self.model.decode([i for i in ids if keep_special or i != self.eod])

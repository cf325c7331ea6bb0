"""The samples of one set (training, validation or test), mixed from one or several data sets, by position.

Position p is a place in an endless row: the blend names the part, the part's order names the sample.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from megatron.data.blend import Mixture
from megatron.data.indexed_dataset import IndexedDataset
from megatron.data.order import Order
from megatron.data.pieces import Pieces, Samples, read
from megatron.errors import DataError

NO_LABEL = -100


@dataclass(frozen=True)
class Part:
    """One data set of the mixture.

    labels: a data set of the same shape that holds what to predict, -100 where nothing counts; None: the text itself.
    """

    stream: Samples
    order: Order
    labels: IndexedDataset | None = None

    def __post_init__(self) -> None:
        text, labels = self.stream.dataset, self.labels
        if labels is not None and not np.array_equal(text.sizes, labels.sizes):
            raise DataError(
                f"{labels.prefix}: label files have the same documents as their text, token for token; "
                f"{text.prefix} has {text.num_sequences} sequences and {text.num_tokens} tokens, "
                f"the labels {labels.num_sequences} and {labels.num_tokens}, or other lengths in between."
            )

    def read(self, numbers: np.ndarray, vocab_size: int) -> tuple[np.ndarray, np.ndarray]:
        """Text and labels of samples `numbers`, each int64 [samples, seq + 1], checked to lie inside the vocabulary.

        Where a sample is shorter, text is padded with 0 and labels with -100.
        """
        width = self.stream.seq_length + 1
        pieces = self.stream.pieces(numbers)
        text = read(self.stream.dataset, pieces, width, 0)
        if text.max() >= vocab_size or (text.dtype.kind == "i" and text.min() < 0):
            raise _outside(self.stream.dataset, "id", text, (text < 0) | (text >= vocab_size), pieces, vocab_size)
        text = text.astype(np.int64)
        if self.labels is not None:
            labels = read(self.labels, pieces, width, NO_LABEL).astype(np.int64)
            if labels.max() >= vocab_size:
                raise _outside(self.labels, "label", labels, labels >= vocab_size, pieces, vocab_size)
            return text, labels
        covered = pieces.covered()
        if (covered == width).all():
            return text, text
        return text, np.where(np.arange(width) < covered[:, None], text, NO_LABEL)


class SampleSource:
    """Samples by position, each text [seq + 1] with its labels.

    blend: which part stands at a position. vocab_size: ids are 0..vocab_size-1, anything else is a DataError that
    says where.
    """

    def __init__(self, parts: Sequence[Part], blend: Mixture, *, vocab_size: int) -> None:
        self.parts = tuple(parts)
        self.blend = blend
        self.vocab_size = vocab_size

    @property
    def num_samples(self) -> int:
        """Samples in all parts, each counted once; at most what the order was built for."""
        total = sum(part.order.size for part in self.parts)
        return total if self.blend.size is None else min(total, self.blend.size)

    @property
    def seq_length(self) -> int:
        return self.parts[0].stream.seq_length

    def locate(self, positions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Part number and sample number within the part, for each position: two int64 [positions]."""
        parts, places = self.blend.locate(positions)
        samples = np.empty_like(places)
        for k in np.unique(parts):
            samples[parts == k] = self.parts[k].order.samples_at(places[parts == k])
        return parts, samples

    def read(self, positions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Text and labels at `positions`: two int64 [positions, seq + 1]."""
        return self.read_located(*self.locate(positions))

    def read_located(self, parts: np.ndarray, samples: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Text and labels of what `locate` found: two int64 [positions, seq + 1]; one array where they are equal."""
        first = int(parts[0])
        if (parts == first).all():
            return self.parts[first].read(samples, self.vocab_size)
        text, labels = (np.empty((len(parts), self.seq_length + 1), np.int64) for _ in range(2))
        for k in np.unique(parts):
            text[parts == k], labels[parts == k] = self.parts[k].read(samples[parts == k], self.vocab_size)
        return text, labels


def _outside(
    dataset: IndexedDataset, kind: str, table: np.ndarray, wrong: np.ndarray, pieces: Pieces, vocab_size: int
) -> DataError:
    row, column = (int(place) for place in np.argwhere(wrong)[0])
    return DataError(_at(dataset, pieces.token_at(row, column), f"{kind} {table[row, column]}", vocab_size))


def _at(dataset: IndexedDataset, token: int, found: str, vocab_size: int) -> str:
    return (
        f"{dataset.place_of_token(token)}: {found} at token {token} of {dataset.prefix}; the vocabulary has "
        f"{vocab_size} ids, 0 to {vocab_size - 1}. The data were made with another tokenizer (check tokenizer_type "
        "and vocab_file) or are damaged: tools/datasets/check_data.py looks through all of them."
    )

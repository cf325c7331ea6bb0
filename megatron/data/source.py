"""The samples of one set (training, validation or test), mixed from one or several data sets, by position.

Position p is a place in an endless row: the blend names the part, the part's order names the sample.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from megatron.data.blend import Blend
from megatron.data.indexed_dataset import IndexedDataset
from megatron.data.order import SampleOrder
from megatron.data.samples import SampleStream
from megatron.errors import DataError


@dataclass(frozen=True)
class Part:
    """One data set of the mixture.

    labels: a data set of the same shape that holds what to predict, -100 where nothing counts; None: the text itself.
    """

    stream: SampleStream
    order: SampleOrder
    labels: IndexedDataset | None = None

    def __post_init__(self) -> None:
        text, labels = self.stream.dataset, self.labels
        if labels is not None and not np.array_equal(text.sizes, labels.sizes):
            raise DataError(
                f"{labels.prefix}: label files have the same documents as their text, token for token; "
                f"{text.prefix} has {text.num_sequences} sequences and {text.num_tokens} tokens, "
                f"the labels {labels.num_sequences} and {labels.num_tokens}, or other lengths in between."
            )

    def read(self, number: int, vocab_size: int) -> tuple[np.ndarray, np.ndarray]:
        """Text and labels of sample `number`, each int64 [seq + 1]; text is checked to lie inside the vocabulary."""
        text = self.stream.sample(number)
        if text.min() < 0 or text.max() >= vocab_size:
            raise self._outside_vocabulary(number, text, vocab_size)
        if self.labels is None:
            return text, text
        labels = self.labels.tokens(self.stream.token_offset(number), len(text)).astype(np.int64)
        if labels.max() >= vocab_size:
            where = self.stream.token_offset(number) + int(np.argmax(labels >= vocab_size))
            raise DataError(_at(self.labels, where, f"label {labels.max()}", vocab_size))
        return text, labels

    def _outside_vocabulary(self, number: int, text: np.ndarray, vocab_size: int) -> DataError:
        place = int(np.argmax((text < 0) | (text >= vocab_size)))
        where = self.stream.token_offset(number) + place
        return DataError(_at(self.stream.dataset, where, f"id {text[place]}", vocab_size))


class SampleSource:
    """Samples by position, each text [seq + 1] with its labels.

    weights: share of each part. vocab_size: ids are 0..vocab_size-1, anything else is a DataError that says where.
    """

    def __init__(self, parts: Sequence[Part], weights: Sequence[float], *, vocab_size: int) -> None:
        self.parts = tuple(parts)
        self.blend = Blend(weights)
        self.vocab_size = vocab_size

    @property
    def num_samples(self) -> int:
        """Samples in all parts, each counted once."""
        return sum(part.order.size for part in self.parts)

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
        parts, samples = self.locate(positions)
        pairs = [self.parts[k].read(int(i), self.vocab_size) for k, i in zip(parts, samples, strict=True)]
        return np.stack([text for text, _ in pairs]), np.stack([labels for _, labels in pairs])


def _at(dataset: IndexedDataset, token: int, found: str, vocab_size: int) -> str:
    return (
        f"{dataset.place_of_token(token)}: {found} at token {token} of {dataset.prefix}; the vocabulary has "
        f"{vocab_size} ids, 0 to {vocab_size - 1}. The data were made with another tokenizer (check tokenizer_type "
        "and vocab_file) or are damaged: tools/datasets/check_data.py looks through all of them."
    )

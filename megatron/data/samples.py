"""Cut a range of documents into training samples, by arithmetic alone: no index is built or stored.

The tokens of the range, in file order, are one stream; sample i is its tokens [i * L, i * L + L], so that
neighbours share one token, which is the last label of one and the first input of the other.
"""

from dataclasses import dataclass, field

import numpy as np

from megatron.data.indexed_dataset import IndexedDataset
from megatron.data.pieces import Pieces, Samples, read
from megatron.errors import DataError


@dataclass(frozen=True)
class SampleStream:
    """The samples of documents [first_document, last_document) of a data set.

    seq_length: L, the tokens a model sees at a time. DataError when the range is too short for one sample.
    """

    dataset: IndexedDataset
    first_document: int
    last_document: int
    seq_length: int
    first_token: int = field(init=False)
    num_tokens: int = field(init=False)

    def __post_init__(self) -> None:
        check_range(self.dataset, self.first_document, self.last_document)
        first = self.dataset.first_token(self.first_document)
        object.__setattr__(self, "first_token", first)
        object.__setattr__(self, "num_tokens", self.dataset.first_token(self.last_document) - first)
        if len(self) < 1:
            raise DataError(
                f"{self.dataset.prefix}: documents {self.first_document} to {self.last_document} have "
                f"{self.num_tokens} tokens; one sample needs seq_length + 1 = {self.seq_length + 1}. "
                "Add data, or lower seq_length."
            )

    def __len__(self) -> int:
        return max(0, self.num_tokens - 1) // self.seq_length

    def pieces(self, numbers: np.ndarray) -> Pieces:
        """One piece a sample."""
        check_numbers(self, numbers)
        count = len(numbers)
        return Pieces(
            count,
            rows=np.arange(count),
            columns=np.zeros(count, np.int64),
            starts=self.first_token + np.asarray(numbers, np.int64) * self.seq_length,
            counts=np.full(count, self.seq_length + 1),
        )

    def sample(self, number: int) -> np.ndarray:
        """Tokens of sample `number` and the one after: int64 [seq_length + 1]."""
        pieces = self.pieces(np.array([number]))
        return read(self.dataset, pieces, self.seq_length + 1, 0)[0].astype(np.int64)

    def token_offset(self, number: int) -> int:
        """Where sample `number` starts, in tokens from the beginning of the `.bin`."""
        return self.first_token + number * self.seq_length

    def describe(self) -> str:
        return (
            f"documents {self.first_document} to {self.last_document - 1}, {self.num_tokens:,} tokens, "
            f"{len(self):,} samples of {self.seq_length}"
        )


def check_range(dataset: IndexedDataset, first: int, last: int, units: int | None = None) -> None:
    """IndexError for documents that are not there, DataError for numbers that are no token ids.

    units: how many there are, where not documents are counted but sequences.
    """
    units = dataset.num_documents if units is None else units
    if not 0 <= first <= last <= units:
        raise IndexError(f"documents [{first}, {last}) of {units}")
    if dataset.dtype.kind not in "iu":
        raise DataError(
            f"{dataset.token_file.name}: holds {dataset.dtype.name} numbers, and token ids are integers. "
            "This looks like a side file (rewards, log-probabilities)."
        )


def check_numbers(samples: Samples, numbers: np.ndarray) -> None:
    """IndexError unless all samples exist: no number is ever taken round to another one."""
    if len(numbers) and not (numbers.min() >= 0 and numbers.max() < len(samples)):
        wrong = numbers.min() if numbers.min() < 0 else numbers.max()
        raise IndexError(f"sample {wrong} of {len(samples)} in {samples.dataset.prefix}")

"""Cut a range of documents into training samples, by arithmetic alone: no index is built or stored.

The tokens of the range, in file order, are one stream; sample i is its tokens [i * L, i * L + L], so that
neighbours share one token, which is the last label of one and the first input of the other.
"""

from dataclasses import dataclass, field

import numpy as np

from megatron.data.indexed_dataset import IndexedDataset
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
        if not 0 <= self.first_document <= self.last_document <= self.dataset.num_documents:
            raise IndexError(f"documents [{self.first_document}, {self.last_document}) of {self.dataset.num_documents}")
        if self.dataset.dtype.kind not in "iu":
            raise DataError(
                f"{self.dataset.token_file.name}: holds {self.dataset.dtype.name} numbers, and token ids are integers. "
                "This looks like a side file (rewards, log-probabilities)."
            )
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

    def sample(self, number: int) -> np.ndarray:
        """Tokens of sample `number` and the one after: int64 [seq_length + 1]."""
        if not 0 <= number < len(self):
            raise IndexError(f"sample {number} of {len(self)} in {self.dataset.prefix}")
        return self.dataset.tokens(self.token_offset(number), self.seq_length + 1).astype(np.int64)

    def token_offset(self, number: int) -> int:
        """Where sample `number` starts, in tokens from the beginning of the `.bin`."""
        return self.first_token + number * self.seq_length

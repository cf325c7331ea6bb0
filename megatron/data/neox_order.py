"""GPT-NeoX's order of samples, bit for bit: the arrays doc_idx, sample_idx and shuffle_idx of its GPT2Dataset.

All documents of all epochs are shuffled at once, joined, cut every seq_length tokens, and the samples are shuffled by
the same generator. The order therefore depends on how many samples are asked for. Source: EleutherAI/gpt-neox,
megatron/data/gpt2_dataset.py.
"""

import math
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from megatron.data import kernels
from megatron.data.index_cache import ArrayWriter
from megatron.errors import DataError, SettingsError

SAMPLES_PER_BLOCK = 1 << 22  # rows of sample_idx held in memory at a time
LARGEST_SEED = 2**32 - 1
SURPLUS = 1.005  # GPT-NeoX builds this much more of each set of a mixture


def samples_to_build(train_iters: int, eval_interval: int, eval_iters: int, batch_size: int) -> dict[str, int]:
    """How many samples GPT-NeoX asks each of the three sets for; batch_size: samples per optimizer step."""
    return {
        "train": train_iters * batch_size,
        "valid": (train_iters // eval_interval + 1) * eval_iters * batch_size,
        "test": eval_iters * batch_size,
    }


def epochs_for(tokens_per_epoch: int, seq_length: int, num_samples: int) -> int:
    """The fewest epochs, at least one, whose tokens make `num_samples` samples (each shares a token with the next)."""
    return max(1, -(-(num_samples * seq_length + 1) // tokens_per_epoch))


def samples_in(tokens: int, seq_length: int) -> int:
    return max(0, tokens - 1) // seq_length


def write_packed_index(
    writer: ArrayWriter,
    sizes: np.ndarray,
    documents: tuple[int, int],
    *,
    seq_length: int,
    seed: int,
    num_samples: int | None = None,
    num_epochs: int | None = None,
) -> None:
    """Save doc_idx [epochs * documents], sample_idx [samples + 1, 2] and shuffle_idx [samples] under these names.

    sizes: int32, tokens of every sequence of the set; documents: the range used. Give num_samples, or num_epochs.
    sample_idx is never in memory as a whole. DataError: no sample can be made.
    """
    first, last = documents
    tokens = int(sizes[first:last].sum(dtype=np.int64))
    if tokens == 0:
        raise DataError(f"documents {first} to {last} have no tokens.")
    epochs = num_epochs or epochs_for(tokens, seq_length, num_samples or 0)
    samples = samples_in(epochs * tokens, seq_length)
    if samples == 0:
        raise DataError(
            f"documents {first} to {last} have {tokens} tokens; one sample needs seq_length + 1 = {seq_length + 1}."
        )
    generator = random_state(seed)
    doc_idx = shuffled_documents(first, last, epochs, generator)
    # The three do not need each other, and their loops leave Python to other threads.
    with ThreadPoolExecutor(2) as pool:
        others = [
            pool.submit(writer.save, "doc_idx", doc_idx),
            pool.submit(_write_shuffle, writer, samples, generator),
        ]
        blocks = sample_starts(doc_idx, sizes, seq_length, samples + 1)
        writer.save_blocks("sample_idx", start_dtype(samples, len(doc_idx)), (samples + 1, 2), blocks)
        for other in others:
            other.result()


def _write_shuffle(writer: ArrayWriter, samples: int, generator: np.random.RandomState) -> None:
    shuffle_idx = np.arange(samples, dtype=np.uint32 if samples < 2**32 - 2 else np.int64)
    kernels.shuffle(shuffle_idx, generator)
    writer.save("shuffle_idx", shuffle_idx)


def random_state(seed: int) -> np.random.RandomState:
    if not 0 <= seed <= LARGEST_SEED:
        raise SettingsError(f"seed: GPT-NeoX's order takes 0 to {LARGEST_SEED}, found {seed}.")
    return np.random.RandomState(seed)


def shuffled_documents(first: int, last: int, epochs: int, generator: np.random.RandomState) -> np.ndarray:
    """`epochs` copies of first..last-1, shuffled over all epochs: int32 [epochs * (last - first)]."""
    row = np.arange(first, last, dtype=np.int32 if last < 2**31 else np.int64)
    if epochs > 1:
        row = np.tile(row, epochs)
    kernels.shuffle(row, generator)
    return row


def start_dtype(samples: int, entries: int) -> np.dtype:
    """The type of sample_idx: int32 where it holds twice the samples, as in GPT-NeoX, and every place in doc_idx."""
    small = 2 * (samples + 1) < 2**31 - 1 and entries < 2**31
    return np.dtype(np.int32 if small else np.int64)


def sample_starts(doc_idx: np.ndarray, sizes: np.ndarray, seq_length: int, count: int) -> Iterator[np.ndarray]:
    """The rows of sample_idx in blocks, each [rows, 2]: position in doc_idx, offset in that document."""
    dtype = start_dtype(count - 1, len(doc_idx))
    start = (0, 0)
    for first in range(0, count, SAMPLES_PER_BLOCK):
        rows = np.empty((min(SAMPLES_PER_BLOCK, count - first), 2), dtype=dtype)
        start = kernels.cut(doc_idx, sizes, seq_length, start, rows)
        yield rows


def shares_and_samples(weights: Sequence[float], num_samples: int) -> tuple[list[float], list[int]]:
    """Weights that add up to one, and how many samples of each set GPT-NeoX builds for a mixture of `num_samples`."""
    total = sum(weights)
    shares = [weight / total for weight in weights]
    return shares, [math.ceil(num_samples * share * SURPLUS) for share in shares]

"""GPT-NeoX's order, bit for bit: the arrays it wrote and every sample it served."""

import zlib

import numpy as np
import pytest

from megatron.data.document_rows import DocumentRows
from megatron.data.index_cache import MemoryArrays
from megatron.data.neox_order import (
    epochs_for,
    samples_in,
    samples_to_build,
    shares_and_samples,
    start_dtype,
    write_packed_index,
)
from megatron.data.pieces import read
from megatron.errors import DataError, SettingsError
from tests.megatron.data import neox_goldens
from tests.megatron.data.neox_goldens import helper

__all__ = ["helper"]


def test_goldens(helper: str) -> None:
    """doc_idx, sample_idx, shuffle_idx and their types; then all samples of the set, in order, by their checksum."""
    checked = 0
    for case in neox_goldens.expected()["gpt2_dataset"]:
        dataset = neox_goldens.dataset(case["prefix"])
        for number, (name, known) in enumerate(case["sets"].items()):
            if known is None:
                continue
            found = MemoryArrays()
            write_packed_index(
                found,
                dataset.sizes,
                tuple(known["documents"]),
                seq_length=case["seq_length"],
                seed=case["seed"],
                num_samples=case["num_samples"][number],
                num_epochs=case["epochs"][number],
            )
            expected = neox_goldens.arrays(f"{case['id']}/{name}")
            assert set(found) == set(expected) == {"doc_idx", "sample_idx", "shuffle_idx"}
            for key, array in expected.items():
                assert found[key].dtype == array.dtype
                assert np.array_equal(found[key], array), (case["id"], name, key)
            rows = DocumentRows(
                dataset, case["seq_length"], found["doc_idx"], found["sample_idx"], dataset.sequence_spans, 1, ""
            )
            # The original's len is one less, so that its last sample is never trained on; ours is served.
            assert len(rows) == known["samples_in_index"] == known["len_of_original"] + 1
            text = read(dataset, rows.pieces(found["shuffle_idx"]), case["seq_length"] + 1, 0)
            assert zlib.crc32(text.astype("<i8").tobytes()) == known["crc32_all_samples_int64_in_order"]
            checked += 1
    assert checked == 19


def test_epochs_are_as_few_as_do() -> None:
    for tokens in (3, 10, 64, 65):
        for seq_length in (1, 2, 8, 64):
            for wanted in range(20):
                epochs = epochs_for(tokens, seq_length, wanted)
                assert samples_in(epochs * tokens, seq_length) >= wanted
                assert epochs == 1 or samples_in((epochs - 1) * tokens, seq_length) < wanted


def test_numbers_asked_for() -> None:
    assert samples_to_build(143000, 1000, 10, 1024) == {"train": 146432000, "valid": 144 * 10 * 1024, "test": 10240}
    for case in neox_goldens.expected()["normalized_weights"]:
        if case["num_samples"] is not None:
            shares, counts = shares_and_samples(case["weights"], case["num_samples"])
            assert shares == case["out_weights"]
            assert counts == case["out_num_samples"]


def test_types_grow_with_the_sizes() -> None:
    """FAULTS: a 32-bit sample_idx beyond 2^31 made "samples" of 198 million tokens (gpt-neox #835)."""
    assert start_dtype(2**30 - 3, 10) == np.int32
    assert start_dtype(2**30, 10) == np.int64
    assert start_dtype(10, 2**31 - 1) == np.int32
    assert start_dtype(10, 2**31) == np.int64


def test_too_little_is_an_error() -> None:
    for sizes in ([0, 0, 0], [1]):
        with pytest.raises(DataError, match=r"no tokens|one sample needs"):
            write_packed_index(
                MemoryArrays(), np.array(sizes, np.int32), (0, len(sizes)), seq_length=8, seed=1, num_epochs=1
            )
    with pytest.raises(SettingsError, match="found 4294967296"):
        write_packed_index(MemoryArrays(), np.array([50], np.int32), (0, 1), seq_length=8, seed=2**32, num_samples=1)

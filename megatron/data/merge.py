"""Several idxmap data sets one after another as one: tokens, sequences and documents in order."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from megatron.data.file_copies import Report, copy_stretch, draft_of, make_room
from megatron.data.index_file import write_index
from megatron.data.indexed_dataset import IndexedDataset
from megatron.data.tokenizer_record import carry_record
from megatron.errors import DataError


def find_prefixes(folder: Path) -> list[Path]:
    """The data sets of a folder by name. DataError for a `.bin` without its `.idx`, and for an empty folder."""
    if not folder.is_dir():
        raise DataError(f"{folder}: there is no such folder.")
    found = sorted(path.with_suffix("") for path in folder.glob("*.idx"))
    alone = [path for path in folder.glob("*.bin") if path.with_suffix("") not in found and "-of-" not in path.name]
    if alone:
        raise DataError(f"{alone[0]}: its index {alone[0].with_suffix('.idx').name} is not there.")
    if not found:
        raise DataError(f"{folder}: no data sets there (pairs of .bin and .idx).")
    return found


def merge(prefixes: Sequence[Path], output_prefix: Path, progress: Report = lambda count: None) -> IndexedDataset:
    """Write the data sets, in the order given, as `<output_prefix>.{bin,idx}`.

    DataError when one cannot be read, when types of token or tokenizers differ, or when the output is one of them.
    """
    if any(prefix.resolve() == output_prefix.resolve() for prefix in prefixes):
        raise DataError(f"{output_prefix}: is one of the data sets to merge. Choose a name outside of their folder.")
    sets = [IndexedDataset(prefix) for prefix in prefixes]
    for other in sets[1:]:
        if other.dtype != sets[0].dtype:
            raise DataError(
                f"{other.prefix}: its tokens are {other.dtype.name}, those of {sets[0].prefix} {sets[0].dtype.name}. "
                "Data sets of one type can be merged; tokenise both with the same tokenizer and tool."
            )
    carry_record(prefixes, output_prefix)
    make_room(output_prefix.parent, sum(dataset.token_file.num_bytes for dataset in sets))
    bin_path, index_path = (Path(f"{output_prefix}.{ending}") for ending in ("bin", "idx"))
    with draft_of(index_path) as index_file, draft_of(bin_path) as bin_file:
        place = 0
        for dataset in sets:
            for path, size in zip(dataset.token_file.paths, dataset.token_file.sizes, strict=True):
                copy_stretch(path, 0, size, bin_file.fileno(), place, progress)
                place += size
        write_index(index_file, sets[0].dtype, np.concatenate([dataset.sizes for dataset in sets]), _borders(sets))
        index_path.unlink(missing_ok=True)  # an older set of this name: better none than one of two halves
    return IndexedDataset(output_prefix)


def _borders(sets: Sequence[IndexedDataset]) -> np.ndarray:
    """First sequence of each document, over all sets: int64 [documents + 1]."""
    parts = [np.zeros(1, dtype=np.int64)]
    before = 0
    for dataset in sets:
        parts.append(dataset.document_borders[1:] + before)
        before += dataset.num_sequences
    return np.concatenate(parts)

"""Whether the training, validation and test sets of some settings share documents: the same ones, or equal texts."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations, pairwise
from pathlib import Path

import numpy as np

from megatron.data.document_hashes import document_hashes
from megatron.data.indexed_dataset import IndexedDataset
from megatron.data.splits import SET_NAMES, parse_split, rounded_borders, split_borders
from megatron.neox_arguments.arguments import NeoXArgs


@dataclass(frozen=True)
class Range:
    """Documents first..last-1 of a data set, used by the set `name`."""

    name: str
    dataset: IndexedDataset
    first: int
    last: int


@dataclass(frozen=True)
class EqualTexts:
    """`count` of the `documents` of the set `name` (short ones left out) are, token for token, in `other` too."""

    name: str
    other: str
    count: int
    documents: int


def ranges_from_args(args: NeoXArgs) -> list[Range]:
    """What the settings name: data_path divided by split, or the lists of the three sets; then validation_sets."""
    found = _ranges_of_the_three(args)
    for name, prefix in (args.validation_sets or {}).items():
        dataset = IndexedDataset(prefix)
        found.append(Range(name, dataset, 0, dataset.num_documents))
    return found


def _ranges_of_the_three(args: NeoXArgs) -> list[Range]:
    if args.data_path is not None:
        dataset = IndexedDataset(args.data_path)
        if args.data_order == "neox":
            borders = rounded_borders(parse_split(args.split), dataset.num_documents)
        else:
            borders = split_borders(args.split, dataset.num_documents)
        return [Range(name, dataset, *ends) for name, ends in zip(SET_NAMES, pairwise(borders), strict=False)]
    lists = {"train": args.train_data_paths, "valid": args.valid_data_paths, "test": args.test_data_paths}
    found = []
    for name, prefixes in lists.items():
        for prefix in prefixes or ():
            dataset = IndexedDataset(prefix)
            found.append(Range(name, dataset, 0, dataset.num_documents))
    return found


def shared_documents(ranges: Sequence[Range]) -> list[str]:
    """A sentence for each two sets that use the same documents of one file."""
    found = []
    for one, other in combinations(ranges, 2):
        first, last = max(one.first, other.first), min(one.last, other.last)
        if _compared(one.name, other.name) and first < last and _same_file(one.dataset, other.dataset):
            found.append(
                f"{other.dataset.prefix}: documents {first} to {last - 1} are in both {one.name} and {other.name}; "
                f"the loss on {other.name} says nothing of new text"
            )
    return found


def equal_texts(ranges: Sequence[Range], progress: Callable[[int], None] = lambda count: None) -> Iterator[EqualTexts]:
    """For each two sets: how many documents of the later one have an equal in the earlier one."""
    hashes: dict[str, list[np.ndarray]] = {}
    for part in ranges:
        hashes.setdefault(part.name, []).append(document_hashes(part.dataset, part.first, part.last, progress))
    joined = {name: np.concatenate(parts) for name, parts in hashes.items()}
    for one, other in combinations(joined, 2):
        if not _compared(one, other):
            continue
        mine = joined[other][joined[other] != 0]
        yield EqualTexts(other, one, int(np.isin(mine, joined[one]).sum()), len(mine))


def _compared(one: str, other: str) -> bool:
    """Named validation sets may be parts of other held-out sets: they are only compared with the training data."""
    return one != other and (other in SET_NAMES or one == "train")


def _same_file(one: IndexedDataset, other: IndexedDataset) -> bool:
    return Path(one.index_path).resolve() == Path(other.index_path).resolve()

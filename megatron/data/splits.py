"""Divide the documents of one data set between training, validation and test (the setting `split`)."""

import math
from itertools import pairwise

from megatron.errors import SettingsError

SET_NAMES = ("train", "valid", "test")


def parse_split(split: str) -> tuple[float, float, float]:
    """Shares of train, valid and test from "969, 30, 1", "90/10" or "1": missing ones are 0, further ones ignored."""
    separator = "," if "," in split else "/"
    try:
        shares = [float(part) for part in split.split(separator)]
    except ValueError as error:
        raise SettingsError(f'split: expected numbers such as "969, 30, 1", found {split!r} ({error}).') from error
    first, second, third = [*shares, 0.0, 0.0][:3]
    if min(first, second, third) < 0 or not 0 < first + second + third < math.inf:
        raise SettingsError(f"split: shares are 0 or more and at least one is above 0; found {split!r}.")
    return first, second, third


def rounded_borders(shares: tuple[float, float, float], documents: int) -> list[int]:
    """GPT-NeoX's rule: [0, b1, b2, documents]; set k is [b_k, b_k+1).

    Each share is rounded by itself and what the rounding adds or loses shifts all borders; here a border never
    leaves 0..documents, which it can in the original. A small share of few documents may be rounded to nothing.
    """
    ends = [0]
    for share in shares:
        ends.append(ends[-1] + round(share / sum(shares) * documents))
    surplus = ends[-1] - documents
    return [0, *(min(max(end - surplus, 0), documents) for end in ends[1:3]), documents]


def split_borders(split: str, documents: int) -> list[int]:
    """`rounded_borders`, put right: a share of 0 gets nothing, every other at least one document if they go round.

    A set that rounding left empty takes a document from the largest set; with fewer documents than sets the larger
    shares go first (the earlier of equals). One book as one document is all training data.
    """
    shares = parse_split(split)
    sizes = [end - start for start, end in pairwise(rounded_borders(shares, documents))]
    by_share = sorted((k for k in range(3) if shares[k] > 0), key=lambda k: (-shares[k], k))
    for k in range(3):
        if shares[k] == 0:
            sizes[by_share[0]] += sizes[k]
            sizes[k] = 0
    wanted = by_share[:documents]
    for k in wanted:
        if sizes[k] == 0:
            donor = max(range(3), key=lambda j: sizes[j] - (j in wanted))
            sizes[donor] -= 1
            sizes[k] += 1
    return [0, sizes[0], sizes[0] + sizes[1], documents]

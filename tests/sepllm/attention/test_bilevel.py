"""Bilevel positions against a loop, and against the original's numbers."""

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sepllm.attention.bilevel import bilevel_positions
from tests.helpers.shared import shared_folder

PYTHIA = [15, 13, 32, 2, 28, 27, 209, 186, 187]


def _by_loop(ids: list[int], separators: list[int], pads: int) -> tuple[list[int], list[int]]:
    intra, inter, place, segment = [], [], 0, 0
    for column, token in enumerate(ids):
        intra.append(place)
        inter.append(segment)
        if column < pads:
            continue
        place += 1
        if token in separators:
            place, segment = 0, segment + 1
    return intra, inter


@given(st.lists(st.integers(0, 4), min_size=1, max_size=40), st.integers(0, 50))
@settings(max_examples=100)
def test_equals_a_loop(ids: list[int], pads: int) -> None:
    pads = min(pads, len(ids))
    first_real = torch.tensor([0, pads])
    intra, inter = bilevel_positions(torch.tensor([ids, ids]), [1, 3], first_real)
    for row, padding in enumerate([0, pads]):
        assert (intra[row].tolist(), inter[row].tolist()) == _by_loop(ids, [1, 3], padding)
    plain = bilevel_positions(torch.tensor([ids]), [1, 3])
    assert torch.equal(plain[0][0], intra[0]) and torch.equal(plain[1][0], inter[0])


def test_numbers_of_the_original() -> None:
    arrays = np.load(shared_folder("reference", "goldens", "bipe.npz"))
    # train_scale is left out: it records a cap on intra that the original never uses.
    names = ["random", "no_sep", "all_sep", "dense", "edges", "subset_seps", "len_1"]
    for name in names:
        separators = [13, 15] if name == "subset_seps" else PYTHIA
        intra, inter = bilevel_positions(torch.from_numpy(arrays[f"{name}.ids"]).long(), separators)
        assert np.array_equal(intra, arrays[f"{name}.intra"]), name
        assert np.array_equal(inter, arrays[f"{name}.inter"]), name

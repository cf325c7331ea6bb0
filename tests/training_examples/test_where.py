"""Where a model loses: kinds of pairs against a plain search, means against the losses they are made of."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from training_examples.paper_ordering.where import PAIRS, pair_kinds, position_edges, summed_up, token_losses


def searched(tokens: list[int], query: int, window: int) -> str:
    """Look back from the query for the last time that its token was followed by the token to predict."""
    for earlier in range(query - 1, -1, -1):
        if tokens[earlier] == tokens[query] and tokens[earlier + 1] == tokens[query + 1]:
            return "near" if query - (earlier + 1) < window else "far"
    return "new"


@given(st.lists(st.integers(0, 3), min_size=2, max_size=40), st.integers(1, 8))
def test_kinds_of_pairs(tokens: list[int], window: int) -> None:
    kinds = pair_kinds(np.array(tokens), window)
    assert [PAIRS[kind] for kind in kinds] == [searched(tokens, query, window) for query in range(len(tokens) - 1)]


def test_edges_cover_a_row() -> None:
    assert position_edges(1024) == [0, 16, 32, 64, 128, 256, 512, 1024]
    assert position_edges(100) == [0, 16, 32, 64, 100] and position_edges(16) == [0, 16] and position_edges(8) == [0, 8]


class Copying(torch.nn.Module):
    """Logits that are sure of one token everywhere."""

    device = torch.device("cpu")

    def forward(self, ids: torch.Tensor) -> "Copying":
        self.logits = torch.zeros(*ids.shape, 4)
        self.logits[..., 2] = 5.0
        return self


def test_losses_and_their_means() -> None:
    rows = np.random.default_rng(1).integers(0, 4, (11, 41))
    losses = token_losses(Copying(), rows)
    sure, other = np.log(np.exp(5) + 3) - 5, np.log(np.exp(5) + 3)
    np.testing.assert_allclose(losses, np.where(rows[:, 1:] == 2, sure, other), rtol=1e-5)
    found = summed_up(losses, rows, window=4)
    assert found["tokens"] == 440 and found["loss"] == pytest.approx(losses.mean())
    assert found["positions"]["16-32"] == pytest.approx(losses[:, 16:32].mean())
    assert sum(pair["share"] for pair in found["pairs"].values()) == pytest.approx(1)
    mixed = sum(pair["share"] * pair["loss"] for pair in found["pairs"].values())
    assert mixed == pytest.approx(losses.mean(), rel=1e-5)

"""Sampling keys mean what GPT-NeoX's mean, and a seed means one text."""

import pytest
import torch

from megatron.errors import SettingsError
from megatron.inference.sampling import Sampling, next_token, sampling_probabilities

LOGITS = torch.tensor([1.0, 3.0, 2.0, -1.0])


def test_all_zero_is_greedy() -> None:
    assert next_token(LOGITS, Sampling()) == 1


def test_temperature_divides_the_logits() -> None:
    assert torch.allclose(sampling_probabilities(LOGITS, Sampling(temperature=0.5)), (LOGITS * 2).softmax(-1))


def test_top_k_keeps_the_k_likeliest_and_temperature_zero_leaves_the_logits() -> None:
    kept = sampling_probabilities(LOGITS, Sampling(top_k=2))
    two = torch.tensor([3.0, 2.0]).softmax(-1)
    assert torch.allclose(kept, torch.tensor([0, two[0], two[1], 0]))
    assert torch.equal(sampling_probabilities(LOGITS, Sampling(top_k=9)), LOGITS.softmax(-1))


@pytest.mark.parametrize(("mass", "kept"), [(0.3, [1]), (0.7, [1, 2]), (0.93, [1, 2, 0]), (1.0, [1, 2, 0, 3])])
def test_top_p_keeps_the_smallest_set_that_reaches_the_mass(mass: float, kept: list[int]) -> None:
    probabilities = sampling_probabilities(LOGITS, Sampling(top_p=mass))
    assert sorted(probabilities.nonzero().flatten().tolist()) == sorted(kept)
    assert probabilities.sum() == pytest.approx(1)


def test_a_seed_means_one_sequence() -> None:
    sampling = Sampling(temperature=1.0)
    runs = []
    for seed in (5, 5, 6):
        generator = torch.Generator().manual_seed(seed)
        runs.append([next_token(LOGITS, sampling, generator) for _ in range(40)])
    assert runs[0] == runs[1] != runs[2]


@pytest.mark.parametrize("keys", [{"temperature": -1.0}, {"top_k": -2}, {"top_p": 1.5}])
def test_values_out_of_range_are_named(keys: dict) -> None:
    with pytest.raises(SettingsError, match=str(next(iter(keys.values())))):
        Sampling(**keys)

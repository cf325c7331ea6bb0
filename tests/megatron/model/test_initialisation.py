"""Spread of the initial values, and their independence of the layout."""

import math

import pytest
import torch

from megatron.errors import SettingsError
from megatron.model.initialisation import init_method
from megatron.mpu.parallel_state import TensorParallel
from megatron.mpu.shard import sharded_parameter, without_initial_values

LAYERS, HIDDEN = 6, 64


def _filled(name):
    weight = torch.empty(256, 192)
    method = init_method(name, std=0.03, num_layers=LAYERS, hidden_size=HIDDEN)
    method(weight, torch.Generator().manual_seed(1))
    return weight


@pytest.mark.parametrize(
    ("name", "std"),
    [
        ("normal", 0.03),
        ("scaled_normal", 0.03 / math.sqrt(2 * LAYERS)),
        ("single_residual_scaled_normal", 0.03 / math.sqrt(LAYERS)),
        ("small_init", math.sqrt(2 / (5 * HIDDEN))),
        ("wang_init", 2 / (LAYERS * math.sqrt(HIDDEN))),
        ("xavier_normal", math.sqrt(2 / (256 + 192))),
        ("xavier_uniform", math.sqrt(2 / (256 + 192))),
    ],
)
def test_spread(name, std):
    weight = _filled(name)
    assert weight.std().item() == pytest.approx(std, rel=0.02)
    assert weight.mean().abs().item() < std * 0.02


def test_orthogonal():
    for name, gain in (("orthogonal", 1.0), ("scaled_orthogonal", 1 / math.sqrt(2 * LAYERS))):
        weight = _filled(name)
        torch.testing.assert_close(weight.T @ weight, torch.eye(192) * gain**2, rtol=0, atol=1e-5)


def test_unknown_name():
    with pytest.raises(SettingsError, match=r"'smal_init'; known are .*small_init"):
        init_method("smal_init", std=0.02, num_layers=1, hidden_size=8)


@pytest.mark.parametrize("name", ["small_init", "xavier_uniform", "orthogonal"])
@pytest.mark.parametrize("dim", [0, 1])
def test_shards_are_cuts_of_the_same_weight(name, dim):
    method = init_method(name, std=0.02, num_layers=2, hidden_size=8)

    def parameter(tp, seed=7, global_name="w"):
        return sharded_parameter(global_name, (8, 12), dim, tp, method, seed)

    whole = parameter(TensorParallel())
    parts = [parameter(TensorParallel(rank, 4)) for rank in range(4)]
    assert torch.equal(torch.cat(parts, dim=dim), whole)
    assert all(part.tensor_model_parallel and part.shard == whole.shard for part in parts)
    assert not torch.equal(parameter(TensorParallel(), seed=8), whole)
    assert not torch.equal(parameter(TensorParallel(), global_name="v"), whole)


def test_values_can_be_left_out():
    calls = []
    with without_initial_values():
        sharded_parameter("w", (2,), None, TensorParallel(), lambda *_: calls.append(1), 0)
    with torch.device("meta"):
        assert sharded_parameter("w", (2,), None, TensorParallel(), lambda *_: calls.append(1), 0).is_meta
    assert not calls
    assert not hasattr(
        sharded_parameter("w", (2,), None, TensorParallel(), lambda *_: calls.append(1), 0), "tensor_model_parallel"
    )
    assert calls == [1]

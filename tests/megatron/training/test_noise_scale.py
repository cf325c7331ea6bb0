"""The estimator finds the noise scale of gradients whose noise is known."""

import torch
from pytest import approx

from megatron.training.noise_scale import noise_estimate


def test_known_noise_is_found() -> None:
    """Samples: gradient 1 in one direction, independent noise of variance 3 in 50: noise scale 150."""
    draw = torch.Generator().manual_seed(1)
    true = torch.zeros(50, dtype=torch.float64)
    true[0] = 1.0
    gradient = noise = 0.0
    for _ in range(600):
        samples = true + 3**0.5 * torch.randn(32, 50, generator=draw, dtype=torch.float64)
        small = samples.view(8, 4, 50).mean(dim=1).square().sum(dim=1).mean()
        estimate = noise_estimate(float(small), 4, float(samples.mean(dim=0).square().sum()), 32)
        gradient, noise = gradient + estimate.gradient / 600, noise + estimate.noise / 600
    assert gradient == approx(1.0, rel=0.1)
    assert noise == approx(150.0, rel=0.02)


def test_equal_gradients_have_no_noise() -> None:
    estimate = noise_estimate(9.0, 1, 9.0, 8)
    assert (estimate.gradient, estimate.noise) == (9.0, 0.0)

"""The loss is a mean over unmasked tokens."""

import torch
import torch.nn.functional as F

from megatron.model.loss import language_model_loss
from megatron.mpu.parallel_state import TensorParallel


def test_mean_over_unmasked_tokens():
    logits, labels = torch.randn(2, 4, 9), torch.randint(9, (2, 4))
    mask = torch.tensor([[1.0, 0, 1, 1], [0, 0, 1, 0]])
    loss = language_model_loss(logits, (labels, mask), TensorParallel())
    torch.testing.assert_close(loss, F.cross_entropy(logits[mask.bool()], labels[mask.bool()]))


def test_everything_masked_is_zero_with_zero_gradient():
    logits = torch.randn(1, 3, 5, requires_grad=True)
    loss = language_model_loss(logits, (torch.zeros(1, 3, dtype=torch.int64), torch.zeros(1, 3)), TensorParallel())
    loss.backward()
    assert loss.item() == 0.0
    assert logits.grad.abs().sum() == 0.0


def test_z_loss_adds_its_gradient_and_not_its_value():
    logits, labels, mask = torch.randn(2, 4, 9, requires_grad=True), torch.randint(9, (2, 4)), torch.ones(2, 4)
    mask[0, 1] = 0
    loss = language_model_loss(logits, (labels, mask), TensorParallel(), z_loss=0.3)
    assert loss.item() == language_model_loss(logits, (labels, mask), TensorParallel()).item()
    (found,) = torch.autograd.grad(loss, logits)
    penalty = 0.3 * logits.logsumexp(dim=-1).square()[mask.bool()].mean()
    whole = F.cross_entropy(logits[mask.bool()], labels[mask.bool()]) + penalty
    torch.testing.assert_close(found, torch.autograd.grad(whole, logits)[0])

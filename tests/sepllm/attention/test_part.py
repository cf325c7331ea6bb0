"""Parts of the keys, merged, equal attention over all of them; both implementations, forward and backward."""

import pytest
import torch
from torch import Tensor

from sepllm.attention import part
from sepllm.attention.part import attend_part, merge, part_gradients

SCALE = 0.3


def _tensors(keys: int) -> tuple[Tensor, ...]:
    source = torch.Generator().manual_seed(keys)
    sizes = (5, keys, keys, 5)
    return tuple(torch.randn(2, 3, size, 4, generator=source, dtype=torch.float64) for size in sizes)


@pytest.fixture(params=["operations", "dense"])
def implementation(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "dense":
        monkeypatch.setattr(part, "_has_operations", lambda *tensors: False)


@pytest.mark.usefixtures("implementation")
def test_two_parts_equal_the_whole() -> None:
    q, k, v, grad = _tensors(11)
    bias = torch.zeros(5, 11, dtype=torch.float64)
    bias[:, 2] = -torch.inf
    bias[1, 6:] = -torch.inf  # nothing of the second part, for one query
    leaves = [t.clone().requires_grad_() for t in (q, k, v)]
    whole = ((leaves[0] @ leaves[1].transpose(-1, -2)) * SCALE + bias).softmax(dim=-1) @ leaves[2]
    exact = torch.autograd.grad(whole, leaves, grad)

    out, lse = attend_part(q, k[:, :, :6], v[:, :, :6], bias[:, :6], SCALE)
    more, more_lse = attend_part(q, k[:, :, 6:], v[:, :, 6:], bias[:, 6:], SCALE)
    more_lse[:, :, 1] = -torch.inf
    lse = merge(out, lse, more, more_lse)
    assert torch.allclose(out, whole.detach(), rtol=0, atol=1e-14)

    first = part_gradients(grad, q, k[:, :, :6], v[:, :, :6], out, lse, bias[:, :6], SCALE)
    second = part_gradients(grad, q, k[:, :, 6:], v[:, :, 6:], out, lse, bias[:, 6:], SCALE)
    ours = (first[0] + second[0], *(torch.cat(pair, dim=2) for pair in zip(first[1:], second[1:], strict=True)))
    assert all(torch.allclose(mine, true, rtol=0, atol=1e-13) for mine, true in zip(ours, exact, strict=True))


@pytest.mark.usefixtures("implementation")
def test_a_query_without_keys_gives_zeros() -> None:
    q, k, v, _ = _tensors(4)
    out, _ = attend_part(q, k, v, torch.full((5, 4), -torch.inf, dtype=torch.float64), SCALE)
    assert torch.equal(out, torch.zeros_like(q))


def test_what_the_operations_cannot_do_is_done_otherwise() -> None:
    q, k, v, _ = _tensors(7)
    narrow = v[..., :3]
    out, _ = attend_part(q, k, narrow, None, SCALE)
    assert torch.allclose(out, attend_part(q, k, v, None, SCALE)[0][..., :3], rtol=0, atol=1e-14)
    turned = k.transpose(-1, -2).contiguous().transpose(-1, -2)
    assert torch.allclose(attend_part(q, turned, v, None, SCALE)[0], attend_part(q, k, v, None, SCALE)[0])

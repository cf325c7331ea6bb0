"""Cut layers give what the whole layer gives, forward and backward."""

from datetime import timedelta

import pytest
import torch
import torch.nn.functional as F

from megatron.mpu.cross_entropy import _CHUNK_ELEMENTS, cross_entropy_and_log_z, vocab_parallel_cross_entropy
from megatron.mpu.layers import (
    ColumnParallelLinear,
    RowParallelLinear,
    VocabParallelEmbedding,
    parallel_logits,
)
from megatron.mpu.mappings import copy_to_tensor_parallel, gather_last_dim, split_last_dim, weight_for_states
from megatron.mpu.parallel_state import TensorParallel, initialize_parallel
from megatron.mpu.random import different_per_tensor_rank, seed_activations
from megatron.mpu.shard import sharded_parameter
from tests.helpers.processes import run_ranks

VOCAB, HIDDEN, INNER = 24, 8, 12


def _normal(tensor, generator):
    tensor.normal_(0.0, 0.5, generator=generator)


class _Net(torch.nn.Module):
    """Embedding, column, row, head and loss in a row: each layer's backward meets the others'."""

    def __init__(self, tp):
        super().__init__()
        self.tp = tp
        common = {"tp": tp, "init": _normal, "seed": 3}
        self.embedding = VocabParallelEmbedding("embedding", VOCAB, HIDDEN, **common)
        self.column = ColumnParallelLinear("column", HIDDEN, INNER, **common)
        self.row = RowParallelLinear("row", INNER, HIDDEN, **common)
        with torch.no_grad():
            self.row.bias.copy_(torch.linspace(-1, 1, HIDDEN))
        self.scale = sharded_parameter("scale", (HIDDEN,), None, TensorParallel(), _normal, 3)

    def forward(self, ids, labels):
        hidden = self.embedding.lookup(ids)
        inner = self.column(hidden).tanh()
        inner = split_last_dim(gather_last_dim(inner, self.tp), self.tp)
        hidden = hidden * weight_for_states(self.scale, self.tp) + self.row(inner)
        logits = parallel_logits(hidden, self.embedding.weight, self.tp)
        return vocab_parallel_cross_entropy(logits, labels, self.tp).mean()


def _batch():
    generator = torch.Generator().manual_seed(0)
    return torch.randint(VOCAB, (3, 6), generator=generator), torch.randint(VOCAB, (3, 6), generator=generator)


def _results(net):
    loss = net(*_batch())
    loss.backward()
    return loss.item(), {p.shard.name: (p.detach().tolist(), p.grad.tolist(), p.shard.dim) for p in net.parameters()}


def rank_program(sequence):
    parallel = initialize_parallel(
        tp_size=2, pp_size=1, backend="gloo", timeout=timedelta(seconds=60), sequence_parallel=sequence
    )
    tp = parallel.tp
    loss, weights = _results(_Net(tp))
    seed_activations(1, parallel)
    before = torch.rand(1).item()
    with different_per_tensor_rank(tp, torch.device("cpu")):
        inside = torch.rand(1).item()
    shared = torch.ones(2, requires_grad=True)
    (copy_to_tensor_parallel(shared, tp) * (tp.rank + 1)).sum().backward()
    try:
        VocabParallelEmbedding("e", VOCAB, HIDDEN, tp=tp, init=_normal, seed=0).lookup(torch.tensor([VOCAB]))
        refused = False
    except IndexError:
        refused = True
    return {
        "place": [parallel.rank, tp.rank, tp.size, parallel.dp_size, parallel.pp_size],
        "loss": loss,
        "weights": weights,
        "random": [before, inside, torch.rand(1).item()],
        "copy_grad": shared.grad.tolist(),
        "unknown_id_refused": refused,
    }


@pytest.mark.multiprocess
@pytest.mark.parametrize("sequence", [False, True])
def test_two_tensor_ranks_equal_one(sequence):
    loss, weights = _results(_Net(TensorParallel()))
    ranks = run_ranks(rank_program, 2, sequence)
    assert [rank["place"] for rank in ranks] == [[0, 0, 2, 1, 1], [1, 1, 2, 1, 1]]
    for rank in ranks:
        assert rank["loss"] == pytest.approx(loss, rel=1e-6)
        assert rank["copy_grad"] == [3.0, 3.0]
        assert rank["unknown_id_refused"]
    for name, (value, grad, dim) in weights.items():
        for which, whole in enumerate((value, grad)):
            parts = [torch.tensor(rank["weights"][name][which]) for rank in ranks]
            joined = parts[0] if dim is None else torch.cat(parts, dim=dim)
            torch.testing.assert_close(joined, torch.tensor(whole), rtol=1e-5, atol=1e-6)
            if dim is None:
                assert torch.equal(parts[0], parts[1])
    first, second = (rank["random"] for rank in ranks)
    assert first[0] == second[0] and first[2] == second[2], "outside, tensor ranks draw the same"
    assert first[1] != second[1], "inside, each draws its own"


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_cross_entropy_equals_torch(dtype, monkeypatch):
    monkeypatch.setitem(_CHUNK_ELEMENTS, "cpu", 64)  # several chunks, the last short
    logits = (torch.randn(5, 3, 20) * 4).to(dtype).requires_grad_()
    twin = logits.detach().clone().requires_grad_()
    labels = torch.randint(20, (5, 3))
    weights = torch.rand(5, 3)
    ours = vocab_parallel_cross_entropy(logits, labels, TensorParallel())
    wide = twin if dtype == torch.float64 else twin.float()
    theirs = F.cross_entropy(wide.view(-1, 20), labels.view(-1), reduction="none").view(5, 3)
    torch.testing.assert_close(ours, theirs)
    (ours * weights).sum().backward()
    (theirs * weights).sum().backward()
    torch.testing.assert_close(logits.grad, twin.grad)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_gradient_may_take_the_place_of_the_logits(dtype, monkeypatch):
    monkeypatch.setitem(_CHUNK_ELEMENTS, "cpu", 64)
    hidden, table = torch.randn(5, 3, 8).to(dtype), torch.randn(20, 8).to(dtype)
    labels = torch.randint(20, (5, 3))
    found = []
    for overwrite in (False, True):
        leaves = [tensor.clone().requires_grad_() for tensor in (hidden, table)]
        raw = leaves[0] @ leaves[1].t()
        logits = 3 * torch.tanh(raw / 3)  # the cap keeps tensors of its own for backward
        address = logits.data_ptr()
        losses, log_z = cross_entropy_and_log_z(logits, labels, TensorParallel(), overwrite_logits=overwrite)
        before = logits.detach().clone()
        (losses * 0.7 - 0.1 * log_z).sum().backward()
        assert logits.data_ptr() == address and torch.equal(logits, before) is not overwrite
        found.append([leaf.grad for leaf in leaves])
    for one, other in zip(*found, strict=True):
        assert torch.equal(one, other)


def test_cross_entropy_refuses_labels_outside():
    with pytest.raises((IndexError, RuntimeError)):
        vocab_parallel_cross_entropy(torch.randn(2, 4), torch.tensor([1, 4]), TensorParallel())
    with pytest.raises(ValueError, match=r"labels \(3,\).*logits \(2, 4\)"):
        vocab_parallel_cross_entropy(torch.randn(2, 4), torch.tensor([1, 2, 3]), TensorParallel())

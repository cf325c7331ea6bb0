"""Linear and embedding layers whose weights are cut over the tensor ranks (Megatron-LM)."""

import torch.nn.functional as F
from torch import Tensor, nn

from megatron.mpu.mappings import linear_of_states, sum_to_states, weight_for_states
from megatron.mpu.parallel_state import TensorParallel
from megatron.mpu.shard import InitMethod, sharded_parameter, zeros


class ColumnParallelLinear(nn.Module):
    """y = x W^T + b with the outputs (rows of W) cut: [..., in] -> [..., out / tp].

    The input is hidden states; their gradient is summed over the tensor ranks.
    """

    def __init__(
        self,
        name: str,
        in_features: int,
        out_features: int,
        *,
        tp: TensorParallel,
        init: InitMethod,
        seed: int,
        bias: bool = True,
    ) -> None:
        super().__init__()
        self.tp = tp
        self.weight = sharded_parameter(f"{name}.weight", (out_features, in_features), 0, tp, init, seed)
        self.bias = sharded_parameter(f"{name}.bias", (out_features,), 0, tp, zeros, seed) if bias else None

    def forward(self, x: Tensor) -> Tensor:
        return linear_of_states(x, self.weight, self.bias, self.tp)


class RowParallelLinear(nn.Module):
    """y = x W^T + b with the inputs (columns of W) cut: [b, s, in / tp] -> hidden states [b, s or s / tp, out].

    The bias is whole on every rank and added once, after the sum.
    """

    def __init__(
        self,
        name: str,
        in_features: int,
        out_features: int,
        *,
        tp: TensorParallel,
        init: InitMethod,
        seed: int,
        bias: bool = True,
    ) -> None:
        super().__init__()
        self.tp = tp
        self.weight = sharded_parameter(f"{name}.weight", (out_features, in_features), 1, tp, init, seed)
        self.bias = sharded_parameter(f"{name}.bias", (out_features,), None, tp, zeros, seed) if bias else None

    def forward(self, x: Tensor) -> Tensor:
        if self.tp.size == 1:
            return F.linear(x, self.weight, self.bias)
        y = sum_to_states(self.partial(x), self.tp)
        return y if self.bias is None else y + weight_for_states(self.bias, self.tp)

    def partial(self, x: Tensor) -> Tensor:
        """This rank's summand without the bias; the caller sums over tp, perhaps with other summands."""
        return F.linear(x, self.weight)


class VocabParallelEmbedding(nn.Module):
    """Table [vocab, hidden] cut over the vocabulary. The model's word embedding adds the forward."""

    def __init__(
        self,
        name: str,
        vocab_size: int,
        hidden_size: int,
        *,
        tp: TensorParallel,
        init: InitMethod,
        seed: int,
    ) -> None:
        super().__init__()
        self.tp = tp
        self.vocab_size = vocab_size
        self.weight = sharded_parameter(f"{name}.weight", (vocab_size, hidden_size), 0, tp, init, seed)

    def lookup(self, token_ids: Tensor) -> Tensor:
        """Token ids [b, s] -> hidden states. IndexError for an id outside the vocabulary (CPU)."""
        if self.tp.size == 1:
            return F.embedding(token_ids, self.weight)
        local = token_ids - self.tp.rank * self.weight.shape[0]
        elsewhere = (local < 0) | (local >= self.weight.shape[0])
        # Ids outside the vocabulary are left as they are, so that the lookup refuses them on every rank
        # instead of returning zeros.
        known = (token_ids >= 0) & (token_ids < self.vocab_size)
        rows = F.embedding(local.masked_fill(elsewhere & known, 0), self.weight)
        return sum_to_states(rows.masked_fill(elsewhere[..., None], 0.0), self.tp)


def parallel_logits(hidden: Tensor, weight: Tensor, tp: TensorParallel) -> Tensor:
    """Logits from a vocabulary-cut table: hidden states, [vocab / tp, hidden] -> [b, s, vocab / tp]."""
    return linear_of_states(hidden, weight, None, tp)


def sum_of_row_parallel(*branches: tuple[RowParallelLinear, Tensor]) -> Tensor:
    """The sum of several row-parallel layers' outputs, with one sum over the tensor ranks for all.

    branches: (layer, its input [b, s, in / tp]) -> hidden states.
    """
    tp = branches[0][0].tp
    if tp.size == 1:
        return sum((layer(x) for layer, x in branches[1:]), branches[0][0](branches[0][1]))
    total = branches[0][0].partial(branches[0][1])
    for layer, x in branches[1:]:
        total = total + layer.partial(x)
    total = sum_to_states(total, tp)
    for layer, _ in branches:
        total = total if layer.bias is None else total + weight_for_states(layer.bias, tp)
    return total

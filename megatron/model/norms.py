"""The norm layers: layernorm, rmsnorm (arXiv 1910.07467), scalenorm (arXiv 1910.05895)."""

import torch.nn.functional as F
from torch import Tensor, nn

from megatron.errors import SettingsError
from megatron.mpu.mappings import copy_to_tensor_parallel, weight_for_states
from megatron.mpu.parallel_state import TensorParallel
from megatron.mpu.shard import ones, sharded_parameter, zeros

NORMS = ("layernorm", "rmsnorm", "scalenorm")


class NormWeights(nn.Module):
    """The weights of a norm over the last dimension, whole on every tensor rank."""

    def __init__(
        self, name: str, size: int, *, kind: str, epsilon: float, bias: bool = True, tp: TensorParallel | None = None
    ) -> None:
        super().__init__()
        self.tp = tp or TensorParallel()
        if kind not in NORMS:
            raise SettingsError(f"Unknown norm {kind!r}; known are {', '.join(NORMS)}.")
        self.kind, self.epsilon = kind, epsilon
        shape = (1,) if kind == "scalenorm" else (size,)
        replicated = TensorParallel()
        self.weight = sharded_parameter(f"{name}.weight", shape, None, replicated, ones, seed=0)
        has_bias = bias and kind == "layernorm"
        self.bias = sharded_parameter(f"{name}.bias", shape, None, replicated, zeros, seed=0) if has_bias else None

    def of_states(self, x: Tensor) -> Tensor:
        """Hidden states -> the same shape."""
        bias = None if self.bias is None else weight_for_states(self.bias, self.tp)
        return self.normalise(x, weight_for_states(self.weight, self.tp), bias)

    def normalise(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """[..., size] -> [..., size]."""
        if self.kind == "layernorm":
            return F.layer_norm(x, x.shape[-1:], weight, bias, self.epsilon)
        if self.kind == "rmsnorm":
            return F.rms_norm(x, x.shape[-1:], weight, self.epsilon)
        length = x.norm(dim=-1, keepdim=True).clamp(min=self.epsilon)
        return x / length * weight


class Norm(NormWeights):
    """Norm of hidden states: [batch, seq, size] -> the same."""

    def forward(self, x: Tensor) -> Tensor:
        return self.of_states(x)


class HeadNorm(NormWeights):
    """Norm over each head of queries or keys: [batch, heads / tp, seq, head_dim] -> the same.

    The weights are whole while the heads are cut, so their gradients are summed over the tensor ranks.
    """

    def forward(self, x: Tensor) -> Tensor:
        weight = copy_to_tensor_parallel(self.weight, self.tp)
        bias = None if self.bias is None else copy_to_tensor_parallel(self.bias, self.tp)
        return self.normalise(x, weight, bias)

"""Muon (Jordan et al. 2024): hidden matrices move along the orthogonalised momentum, everything else by AdamW.

torch.optim.Muon wants whole matrices, which ZeRO does not have; the rule here is the same, and a test holds it
against torch's. The step is scaled to the size of AdamW's (Liu et al. 2025, arXiv 2502.16982), so that one learning
rate and one weight decay serve both kinds of group.
"""

import math
from typing import Any, ClassVar

import torch
import torch.distributed as dist
from torch import Tensor

from megatron.mpu.shard import shard_of
from megatron.neox_arguments.optimization_settings import OptimizerSettings
from megatron.optim.sliced import Part, Rule, SlicedOptimizer, update_adamw

# Coefficients of the quintic iteration, https://kellerjordan.github.io/posts/muon/.
_A, _B, _C = 3.4445, -4.7750, 2.0315


def orthogonalised(matrix: Tensor, steps: int) -> Tensor:
    """[m, n] -> about U V^T of its singular value decomposition (Newton-Schulz), in the matrix's own type."""
    tall = matrix.shape[0] > matrix.shape[1]
    x = matrix.mT if tall else matrix
    x = x / x.norm().clamp(min=1e-7)
    for _ in range(steps):
        gram = x @ x.mT
        x = torch.addmm(x, torch.addmm(gram, gram, gram, beta=_B, alpha=_C), x, beta=_A)
    return x.mT if tall else x


class Muon(SlicedOptimizer):
    """Each data-parallel rank orthogonalises every dp-th matrix and sends the result to the others."""

    def __init__(self, groups: list[dict[str, Any]], settings: OptimizerSettings) -> None:
        super().__init__(groups, {"lr": settings.lr, "betas": settings.betas, "eps": settings.eps})
        self._settings = settings

    def _update_matrices(self, group: dict[str, Any], parts: list[Part], step: int) -> None:
        size, rank = self.dp_size, self.dp_rank
        directions = [self._direction(part) for part in parts]
        for first in range(0, len(parts), size):
            turn = parts[first : first + size]
            own: Tensor | None = None
            for owner, part in enumerate(turn):
                values = self.padded(part, directions[first + owner])
                if size > 1:
                    dist.reduce(values, dist.get_global_rank(self.dp_group, owner), group=self.dp_group)
                if owner == rank:
                    own = self._orthogonalise(part.parameter, values)
            for owner, part in enumerate(turn):
                update = own if owner == rank and own is not None else part.weight.new_empty(part.parameter.numel())
                if size > 1:
                    dist.broadcast(update, dist.get_global_rank(self.dp_group, owner), group=self.dp_group)
                scale = 0.2 * math.sqrt(max(shard_of(part.parameter).shape))
                part.weight.mul_(1 - group["lr"] * group["weight_decay"])
                part.weight.sub_(update[part.start : part.start + part.weight.numel()], alpha=group["lr"] * scale)

    def _direction(self, part: Part) -> Tensor:
        momentum, buffer = self._settings.momentum, self.moment(part, "momentum_buffer")
        buffer.lerp_(part.gradient, 1 - momentum)
        return part.gradient.lerp(buffer, momentum) if self._settings.nesterov else buffer

    def _orthogonalise(self, parameter: torch.nn.Parameter, local: Tensor) -> Tensor:
        """The local part, flattened, of the orthogonalised global matrix."""
        shard = shard_of(parameter)
        matrix = local.view(shard.local_shape(self.tp.size))
        if shard.dim is not None and self.tp.size > 1:
            pieces = [torch.empty_like(matrix) for _ in range(self.tp.size)]
            dist.all_gather(pieces, matrix, group=self.tp.group)
            matrix = torch.cat(pieces, dim=shard.dim)
        half = torch.bfloat16 if self._settings.half_matrices else matrix.dtype
        result = orthogonalised(matrix.to(half), self._settings.ns_steps).to(local.dtype)
        return shard.take(result, self.tp.rank, self.tp.size).reshape(-1).contiguous()

    rules: ClassVar[dict[str, Rule]] = {"muon": _update_matrices, "adamw": update_adamw}

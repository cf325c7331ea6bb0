"""Adafactor (Shazeer & Stern 2018, arXiv 1804.04235): of the mean square gradient only row and column means are kept.

The rule is that of torch.optim.Adafactor, which wants whole matrices; a test holds it against torch's. Here rows and
columns are summed over the ranks that hold slices, and so are the norms.
"""

import math
from typing import Any, ClassVar

import torch
from torch import Tensor

from megatron.mpu.shard import shard_of
from megatron.neox_arguments.optimization_settings import OptimizerSettings
from megatron.optim.sliced import Part, Rule, SlicedOptimizer

_SMALLEST = torch.finfo(torch.float32).eps
_SMALLEST_SCALE = 1e-3  # of a parameter's root mean square, which the step is relative to


class Adafactor(SlicedOptimizer):
    """The learning rate is relative to the weights' own size; 1e-2 is usual. It never exceeds 1 / sqrt(step)."""

    def __init__(self, groups: list[dict[str, Any]], settings: OptimizerSettings) -> None:
        super().__init__(groups, {"lr": settings.lr})
        self._settings = settings

    def _update_matrices(self, group: dict[str, Any], parts: list[Part], step: int) -> None:
        sums = self.sum_over_slices(parts, [self._row_and_column_sums(part) for part in parts])
        updates = []
        for part, both in zip(parts, sums, strict=True):
            rows, columns = self._factors(part.parameter, both, step)
            square = rows[:, None] * columns / rows.mean().clamp(min=_SMALLEST)
            local = shard_of(part.parameter).take(square, self.tp.rank, self.tp.size).reshape(-1)
            updates.append(_scaled(local[part.start : part.start + part.gradient.numel()], part.gradient))
        self._apply(group, parts, updates, step)

    def _update_vectors(self, group: dict[str, Any], parts: list[Part], step: int) -> None:
        updates = []
        for part in parts:
            variance = self.moment(part, "variance")
            variance.lerp_(part.gradient.square(), self._forgets(step))
            updates.append(_scaled(variance, part.gradient))
        self._apply(group, parts, updates, step)

    def _row_and_column_sums(self, part: Part) -> Tensor:
        """[height + width] sums of the squared gradient in the global matrix, as far as this rank holds it."""
        shard = shard_of(part.parameter)
        square = self.padded(part, part.gradient).square_().view(part.parameter.shape)
        sums = []
        for axis in (0, 1):
            along = square.sum(dim=1 - axis)
            full = along.new_zeros(shard.shape[axis])
            first = self.tp.rank * along.numel() if shard.dim == axis else 0
            full[first : first + along.numel()] = along
            sums.append(full)
        return torch.cat(sums)

    def _factors(self, parameter: torch.nn.Parameter, sums: Tensor, step: int) -> tuple[Tensor, Tensor]:
        """Running means of the squared gradient over each row [height] and column [width]."""
        height, width = shard_of(parameter).shape
        state = self.whole.setdefault(parameter, {})
        for kind, mean in (("row_var", sums[:height] / width), ("col_var", sums[height:] / height)):
            if kind not in state:
                state[kind] = torch.zeros_like(mean)
            state[kind].lerp_(mean, self._forgets(step))
        return state["row_var"], state["col_var"]

    def _forgets(self, step: int) -> float:
        return step**self._settings.beta2_decay

    def _apply(self, group: dict[str, Any], parts: list[Part], updates: list[Tensor], step: int) -> None:
        squares = [
            torch.stack([part.weight.square().sum(), update.square().sum()])
            for part, update in zip(parts, updates, strict=True)
        ]
        lr = group["lr"]
        for part, update, sums in zip(parts, updates, self.sum_over_slices(parts, squares), strict=True):
            size, step_size = (sums / math.prod(shard_of(part.parameter).shape)).sqrt().unbind()
            relative = size.clamp(min=_SMALLEST_SCALE) * min(lr, step**-0.5)
            clipped = (step_size / self._settings.clip_threshold).clamp(min=1.0)
            part.weight.mul_(1 - lr * group["weight_decay"]).sub_(update * (relative / clipped))

    rules: ClassVar[dict[str, Rule]] = {"adafactor_matrix": _update_matrices, "adafactor_vector": _update_vectors}


def _scaled(square: Tensor, gradient: Tensor) -> Tensor:
    return square.clamp(min=_SMALLEST * _SMALLEST).rsqrt_().mul_(gradient)

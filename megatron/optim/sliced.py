"""Optimizers whose update of one weight depends on the rest of its matrix, under ZeRO's slices.

DeepSpeed hands the torch optimizer one flat slice of all weights of a group, cut anywhere. Here each parameter's part
of that slice is found again (`_hp_mapping`), and what concerns the whole matrix is summed or gathered over the
data-parallel and tensor-parallel ranks, so that the update is that of the whole, uncut matrix.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.distributed as dist
from torch import Tensor

from megatron.mpu.parallel_state import TensorParallel
from megatron.mpu.shard import shard_of


@dataclass(frozen=True)
class Part:
    """This rank's elements [start, start + n) of a flattened parameter; n may be 0.

    weight, gradient: [n], views. They lie from `offset` on in `owner`, the tensor the optimizer's state belongs to.
    """

    parameter: torch.nn.Parameter
    weight: Tensor
    gradient: Tensor
    start: int
    owner: Tensor
    offset: int


# (optimizer, group, its parts, number of this update) -> None
Rule = Callable[[Any, dict[str, Any], list[Part], int], None]


class SlicedOptimizer(torch.optim.Optimizer):
    """Base of Muon and Adafactor. `rules` maps the groups' "rule" to the method that updates their parts.

    `whole`: state of a parameter that is not shaped like it, the same on every rank.
    """

    rules: ClassVar[dict[str, Rule]] = {}

    def __init__(self, groups: list[dict[str, Any]], defaults: dict[str, Any]) -> None:
        super().__init__(groups, defaults)
        for group in self.param_groups:
            group["members"] = list(group["params"])  # DeepSpeed puts its slice in their place
        self.whole: dict[torch.nn.Parameter, dict[str, Tensor]] = {}
        self.dp_group: Any = None
        self.tp = TensorParallel()

    def attach(self, dp_group: Any, tp: TensorParallel) -> None:
        """Tell which ranks hold the other slices (dp_group: ZeRO's) and the other parts (tp)."""
        self.dp_group, self.tp = dp_group, tp

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """One update; the ranks of `attach` call it together."""
        assert closure is None, "gradients are there before the step"
        for group in self.param_groups:
            parts = self._parts(group)
            owner = group["params"][0]
            count = self.state[owner].setdefault("step", torch.zeros((), device=owner.device))
            count += 1
            self.rules[group["rule"]](self, group, parts, int(count))

    def moment(self, part: Part, kind: str) -> Tensor:
        """[n]: the part's elements of an elementwise state, which begins at 0."""
        state = self.state[part.owner]
        if kind not in state:
            state[kind] = torch.zeros_like(part.owner)
        return state[kind].view(-1).narrow(0, part.offset, part.weight.numel())

    def padded(self, part: Part, values: Tensor) -> Tensor:
        """values [n] at their place in a local parameter of zeros, flattened."""
        full = values.new_zeros(part.parameter.shape.numel())
        full[part.start : part.start + values.numel()] = values
        return full

    def sum_over_slices(self, parts: list[Part], values: list[Tensor]) -> list[Tensor]:
        """Each part's values, summed over all ranks that hold some of the parameter; any shapes."""
        cut = [part.parameter for part in parts if shard_of(part.parameter).dim is not None]
        summed: list[Tensor | None] = [None] * len(parts)
        for is_cut in (True, False) if cut else (False,):
            numbers = [n for n, part in enumerate(parts) if (shard_of(part.parameter).dim is not None) == is_cut]
            if not numbers:
                continue
            flat = torch.cat([values[n].reshape(-1) for n in numbers])
            if self.dp_size > 1:
                dist.all_reduce(flat, group=self.dp_group)
            if is_cut and self.tp.size > 1:
                dist.all_reduce(flat, group=self.tp.group)
            for n, piece in zip(numbers, flat.split([values[n].numel() for n in numbers]), strict=True):
                summed[n] = piece.view(values[n].shape)
        return [value for value in summed if value is not None]

    @property
    def dp_size(self) -> int:
        return 1 if self.dp_group is None else dist.get_world_size(self.dp_group)

    @property
    def dp_rank(self) -> int:
        return 0 if self.dp_group is None else dist.get_rank(self.dp_group)

    def _parts(self, group: dict[str, Any]) -> list[Part]:
        members, held = group["members"], group["params"]
        if held[0] is members[0]:
            return [Part(p, p.data.view(-1), p.grad.view(-1), 0, p, 0) for p in members]
        [flat] = held
        parts = []
        for parameter in members:
            mapping = parameter._hp_mapping
            if mapping is None:
                nothing = flat.data.narrow(0, 0, 0)
                parts.append(Part(parameter, nothing, nothing, 0, flat, 0))
                continue
            inside, address = mapping.lp_fragment_address, mapping.get_hp_fragment_address()
            weight = flat.data.narrow(0, address.start, address.numel)
            gradient = flat.grad.narrow(0, address.start, address.numel)
            parts.append(Part(parameter, weight, gradient, inside.start, flat, address.start))
        return parts


def update_adamw(optimizer: SlicedOptimizer, group: dict[str, Any], parts: list[Part], step: int) -> None:
    """AdamW (Loshchilov & Hutter 2019) of elementwise groups beside the matrices."""
    beta1, beta2 = group["betas"]
    for part in parts:
        mean, square = optimizer.moment(part, "exp_avg"), optimizer.moment(part, "exp_avg_sq")
        mean.lerp_(part.gradient, 1 - beta1)
        square.mul_(beta2).addcmul_(part.gradient, part.gradient, value=1 - beta2)
        root = (square / (1 - beta2**step)).sqrt_().add_(group["eps"])
        part.weight.mul_(1 - group["lr"] * group["weight_decay"])
        part.weight.addcdiv_(mean, root, value=-group["lr"] / (1 - beta1**step))

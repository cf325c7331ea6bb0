"""Lion (Chen et al. 2023, arXiv 2302.06675): the sign of a running mean. torch has none of its own."""

from collections.abc import Callable
from typing import Any

import torch


class Lion(torch.optim.Optimizer):
    """One moment per weight; weights decay beside the gradient. A tenth of Adam's learning rate is usual."""

    def __init__(self, groups: list[dict[str, Any]], *, lr: float, betas: tuple[float, float]) -> None:
        super().__init__(groups, {"lr": lr, "betas": betas, "weight_decay": 0.0})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """One update of all parameters that have a gradient."""
        assert closure is None, "gradients are there before the step"
        for group in self.param_groups:
            beta1, beta2 = group["betas"]
            for weight in group["params"]:
                if weight.grad is None:
                    continue
                state = self.state[weight]
                if "exp_avg" not in state:
                    state["exp_avg"] = torch.zeros_like(weight)
                mean = state["exp_avg"]
                direction = torch.lerp(mean, weight.grad, 1 - beta1).sign_()
                weight.mul_(1 - group["lr"] * group["weight_decay"]).add_(direction, alpha=-group["lr"])
                mean.lerp_(weight.grad, 1 - beta2)

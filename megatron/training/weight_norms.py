"""Norms of each weight, its gradient and its optimizer moments, by global name, whatever the layout of ranks.

The reduced gradient exists only while DeepSpeed's inner optimizer steps, in slices over the data-parallel ranks: a hook
there takes its sums. Tags are GPT-NeoX's.
"""

import math
from collections import defaultdict
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.utils.hooks import RemovableHandle

from megatron.checkpointing.optimizer_state import MASTER, fragments
from megatron.mpu.shard import counts_here, shard_of
from megatron.training.engine import gradient_norm
from megatron.training.run import Run

_GRADIENTS, _ZEROS = "gradient_norms", "pct_grad_zeros"
_WEIGHTS, _STATES = "parameter_norms", "optimizer_state_norms"


class WeightNorms:
    """Measures the steps that `arm` announces; nothing is computed at the others."""

    def __init__(self, run: Run) -> None:
        args = run.args
        self._run = run
        wanted = {
            _GRADIENTS: args.log_grad_norm,
            _ZEROS: args.log_grad_pct_zeros,
            _WEIGHTS: args.log_param_norm,
            _STATES: args.log_optimizer_states,
        }
        self._wanted = {kind for kind, on in wanted.items() if on}
        self._parameters = [p for p in run.engine.module.parameters() if counts_here(p, run.parallel.tp)]
        self._sizes = {shard_of(p).name: math.prod(shard_of(p).shape) for p in self._parameters}
        self._armed = False
        self._sums: dict[tuple[str, str], Tensor] = {}
        self._hooks: list[RemovableHandle] = []
        if self._wanted & {_GRADIENTS, _ZEROS}:
            self._hooks.append(run.engine.optimizer.optimizer.register_step_pre_hook(self._take_gradients))

    def arm(self) -> None:
        """The coming step is measured."""
        self._armed = bool(self._wanted)
        self._sums = {}

    def report(self) -> dict[str, dict[str, float]]:
        """Tag group -> weight -> value of the step that has just ended. A collective: every rank calls it."""
        if not self._armed:
            return {}
        self._armed = False
        self._take_weights()
        sums, sizes = self._over_all_ranks()
        unclip = self._unclip()
        found: dict[str, dict[str, float]] = defaultdict(dict)
        for (kind, name), total in sorted(sums.items()):
            weight = name.partition("/")[0]
            if kind == _ZEROS:
                found[kind][name] = 100 * total / sizes[weight]
            else:
                found[kind][name] = math.sqrt(total) * (unclip if kind == _GRADIENTS else 1.0)
        return dict(found)

    def close(self) -> None:
        for hook in self._hooks:
            hook.remove()

    def _take_gradients(self, *_: Any) -> None:
        """Inside the inner optimizer's step, which DeepSpeed calls for one group of parameters or for all."""
        if not self._armed:
            return
        for fragment in fragments(self._run.engine.optimizer, self._parameters, masters=True):
            if fragment.partition.grad is None:
                continue
            gradient = fragment.partition.grad.narrow(0, fragment.offset, fragment.tensors[MASTER].numel())
            name = shard_of(fragment.parameter).name
            if _GRADIENTS in self._wanted:
                self._sums[_GRADIENTS, name] = _squares(gradient)
            if _ZEROS in self._wanted:
                self._sums[_ZEROS, name] = (gradient == 0).sum().double()

    def _take_weights(self) -> None:
        if not self._wanted & {_WEIGHTS, _STATES}:
            return
        for fragment in fragments(self._run.engine.optimizer, self._parameters, masters=True):
            name = shard_of(fragment.parameter).name
            for kind, value in fragment.tensors.items():
                if kind == MASTER and _WEIGHTS in self._wanted:
                    self._sums[_WEIGHTS, name] = _squares(value)
                elif kind != MASTER and _STATES in self._wanted:
                    self._sums[_STATES, f"{name}/{kind}"] = _squares(value)

    def _over_all_ranks(self) -> tuple[dict[tuple[str, str], float], dict[str, int]]:
        own: tuple[dict[tuple[str, str], float], dict[str, int]] = ({}, self._sizes)
        if self._sums:
            own[0].update(zip(self._sums, torch.stack(list(self._sums.values())).tolist(), strict=True))
        if self._run.parallel.world_size == 1:
            return own
        gathered: list[Any] = [None] * self._run.parallel.world_size
        dist.all_gather_object(gathered, own)
        totals: dict[tuple[str, str], float] = defaultdict(float)
        sizes: dict[str, int] = {}
        for sums, rank_sizes in gathered:
            sizes |= rank_sizes
            for key, value in sums.items():
                totals[key] += value
        return dict(totals), sizes

    def _unclip(self) -> float:
        """What DeepSpeed divided the gradient by before the inner step (its 1e-6 included)."""
        clip, norm = self._run.args.gradient_clipping, gradient_norm(self._run.engine)
        return max(1.0, (norm + 1e-6) / clip) if clip and norm is not None else 1.0


def _squares(values: Tensor) -> Tensor:
    return values.detach().double().square().sum()

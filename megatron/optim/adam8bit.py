"""AdamW with 8-bit moments from bitsandbytes (Dettmers et al. 2022, arXiv 2110.02861), an optional package.

Checkpoints hold the moments unpacked, under Adam's names: a run may change between the two, and between layouts.
"""

from typing import Any

import torch
from torch import Tensor

from megatron.errors import SettingsError
from megatron.neox_arguments.optimization_settings import OptimizerSettings

_BLOCK = 256  # weights that share one scale
_MOMENTS = {"exp_avg": ("state1", "qmap1", "absmax1"), "exp_avg_sq": ("state2", "qmap2", "absmax2")}


def build_adam8bit(groups: list[dict[str, Any]], settings: OptimizerSettings) -> torch.optim.Optimizer:
    """bitsandbytes' AdamW8bit with `read_state` and `write_state`. SettingsError where the package is missing."""
    try:
        import bitsandbytes
    except ImportError as error:
        raise SettingsError(
            f"8-bit Adam needs the package bitsandbytes, which cannot be imported ({error}). "
            "Install it with: pip install bitsandbytes, or use optimizer: {type: Adam}."
        ) from error

    class Adam8bit(bitsandbytes.optim.AdamW8bit):
        param_groups: list[dict[str, Any]]

        def read_state(self, flat: Tensor) -> dict[str, Tensor]:
            """kind -> float32 [n], copies."""
            state = self.state.get(flat, {})
            return {
                kind: unpacked(state[codes], state.get(table), state.get(scales))
                for kind, (codes, table, scales) in _MOMENTS.items()
                if codes in state
            }

        def write_state(self, flat: Tensor, tensors: dict[str, Tensor], steps: int) -> None:
            """Put unpacked moments in the place of the optimizer's."""
            groups = self.param_groups  # init_state looks for the weight in them; ZeRO-3 keeps it elsewhere
            self.param_groups = [{**groups[0], "params": [flat]}]
            self.init_state(self.param_groups[0], flat, 0, 0)
            self.param_groups = groups
            state = self.state[flat]
            state["step"] = steps
            for kind, (codes, table, scales) in _MOMENTS.items():
                pack_into(tensors[kind], state[codes], state.get(table), state.get(scales))

    return Adam8bit(groups, lr=settings.lr, betas=settings.betas, eps=settings.eps)


def unpacked(codes: Tensor, table: Tensor | None, scales: Tensor | None) -> Tensor:
    """uint8 [n], values of the codes [256], scales [n / 256] -> float32 [n]. Float states pass as they are.

    The lowest code of a signed table is a little above -1; it is read as -1, so that the greatest value of each block
    is its scale, and packing gives the same codes and scales again.
    """
    if codes.dtype != torch.uint8 or table is None or scales is None:
        return codes.clone()
    values = table.clone()
    if values[0] < 0:
        values[0] = -1.0
    return values[codes.long()] * _spread(scales, codes.numel())


def pack_into(moments: Tensor, codes: Tensor, table: Tensor | None, scales: Tensor | None) -> None:
    """The inverse of `unpacked`, in place."""
    if codes.dtype != torch.uint8 or table is None or scales is None:
        codes.copy_(moments)
        return
    padding = -moments.numel() % _BLOCK
    blocks = torch.nn.functional.pad(moments.abs(), (0, padding)).view(-1, _BLOCK)
    scales.copy_(blocks.amax(dim=1))
    relative = moments / _spread(scales, moments.numel()).clamp(min=torch.finfo(torch.float32).tiny)
    codes.copy_(torch.bucketize(relative, (table[1:] + table[:-1]) / 2))


def _spread(scales: Tensor, size: int) -> Tensor:
    return scales.repeat_interleave(_BLOCK)[:size]

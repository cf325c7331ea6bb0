"""Activation functions of the MLP by GPT-NeoX's names."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from megatron.errors import SettingsError

# Gated units (Dauphin et al. 2017, arXiv 1612.08083; Shazeer 2020, arXiv 2002.05202) -> the function on their gate.
GATED: dict[str, Callable[[Tensor], Tensor]] = {
    "geglu": F.gelu,
    "swiglu": F.silu,
    "reglu": torch.relu,
    "glu": torch.sigmoid,
    "bilinear": lambda gate: gate,
}


def activation_function(name: str) -> Callable[[Tensor], Tensor]:
    """The function called `name`; of a gated unit (those in GATED) the function on its gate."""
    functions: dict[str, Callable[[Tensor], Tensor]] = {
        "gelu": F.gelu,
        "gelu_pytorch_tanh": _gelu_tanh,
        "relu": torch.relu,
        "softsign": F.softsign,
        "swish": F.silu,
        "silu": F.silu,
        "mish": F.mish,
        **GATED,
    }
    if name not in functions:
        raise SettingsError(f"Unknown activation {name!r}; known are {', '.join(functions)}.")
    return functions[name]


def _gelu_tanh(x: Tensor) -> Tensor:
    return F.gelu(x, approximate="tanh")

"""Activation functions of the MLP by GPT-NeoX's names."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from megatron.errors import SettingsError


def activation_function(name: str) -> Callable[[Tensor], Tensor]:
    """The function called `name`; of a gated unit ("geglu") the function on its gate."""
    functions: dict[str, Callable[[Tensor], Tensor]] = {
        "gelu": F.gelu,
        "gelu_pytorch_tanh": _gelu_tanh,
        "geglu": F.gelu,
        "relu": torch.relu,
        "softsign": F.softsign,
        "swish": F.silu,
        "silu": F.silu,
        "mish": F.mish,
    }
    if name not in functions:
        raise SettingsError(f"Unknown activation {name!r}; known are {', '.join(functions)}.")
    return functions[name]


def _gelu_tanh(x: Tensor) -> Tensor:
    return F.gelu(x, approximate="tanh")

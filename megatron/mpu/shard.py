"""What part of which global weight a rank's parameter holds, and its initial value.

Initial values depend on the seed and the global name only, so every layout starts from the same model.
"""

import contextlib
import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from megatron.mpu.parallel_state import TensorParallel

# Fills the full (global) tensor in place, drawing from the generator.
InitMethod = Callable[[Tensor, torch.Generator], None]


@dataclass(frozen=True)
class Shard:
    """name: global name; shape: global shape; dim: the dimension cut over tensor ranks, None = replicated."""

    name: str
    shape: tuple[int, ...]
    dim: int | None = None

    def local_shape(self, tp_size: int) -> tuple[int, ...]:
        """The shape one of tp_size ranks holds."""
        if self.dim is None:
            return self.shape
        assert self.shape[self.dim] % tp_size == 0, f"{self.name} {self.shape} over {tp_size} ranks"
        return tuple(size // tp_size if axis == self.dim else size for axis, size in enumerate(self.shape))

    def take(self, full: Tensor, tp_rank: int, tp_size: int) -> Tensor:
        """This rank's part (a view) of the full tensor."""
        if self.dim is None:
            return full
        length = self.shape[self.dim] // tp_size
        return full.narrow(self.dim, tp_rank * length, length)


def sharded_parameter(
    name: str,
    shape: tuple[int, ...],
    dim: int | None,
    tp: TensorParallel,
    init: InitMethod,
    seed: int,
) -> nn.Parameter:
    """A parameter with its `.shard`, `.tensor_model_parallel` and initial values; fp32 on the CPU.

    DeepSpeed reads `tensor_model_parallel` to count a weight once in the gradient norm.
    Under `without_initial_values()` or the meta device the values are left as they come.
    """
    shard = Shard(name, tuple(shape), dim)
    parameter = nn.Parameter(torch.empty(shard.local_shape(tp.size)))
    parameter.shard = shard  # type: ignore[attr-defined]  # tensors take attributes, unknown to mypy
    if dim is not None:
        parameter.tensor_model_parallel = True  # type: ignore[attr-defined]  # read by DeepSpeed
    if _initialise and not parameter.is_meta:
        full = torch.empty(shard.shape)
        init(full, torch.Generator().manual_seed(derive_seed(seed, name)))
        with torch.no_grad():
            parameter.copy_(shard.take(full, tp.rank, tp.size))
    return parameter


def shard_of(parameter: nn.Parameter) -> Shard:
    """The `.shard` of a parameter made by `sharded_parameter`."""
    shard = getattr(parameter, "shard", None)
    assert isinstance(shard, Shard), "every parameter of the model is made by sharded_parameter"
    return shard


def counts_here(parameter: nn.Parameter, tp: TensorParallel) -> bool:
    """Whether this rank speaks for its part: replicated tensors by tensor rank 0, tied copies by their first stage."""
    replicated_copy = shard_of(parameter).dim is None and tp.rank > 0
    tied_copy = getattr(parameter, "ds_pipe_replicated", False)
    return not (replicated_copy or tied_copy)


def derive_seed(*parts: object) -> int:
    """A seed of 63 bits out of any parts, the same on every machine."""
    digest = hashlib.sha256("\0".join(map(str, parts)).encode()).digest()
    return int.from_bytes(digest[:8], "little") >> 1


def zeros(tensor: Tensor, generator: torch.Generator) -> None:
    """Biases start at 0."""
    tensor.zero_()


def ones(tensor: Tensor, generator: torch.Generator) -> None:
    """Norm weights start at 1."""
    tensor.fill_(1.0)


_initialise = True


@contextlib.contextmanager
def without_initial_values() -> Iterator[None]:
    """Parameters made inside hold arbitrary memory: for models whose weights are loaded right after."""
    global _initialise
    before, _initialise = _initialise, False
    try:
        yield
    finally:
        _initialise = before

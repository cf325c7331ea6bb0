"""Where a run stands: the few numbers that, with weights and optimizer, make it continue as if never stopped."""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass
class RunState:
    """Counted in updates and in samples, so that batch size and rank count may change between runs."""

    iteration: int = 0
    consumed_samples: int = 0
    skipped: int = 0
    last_saved: int | None = None  # newest step known to be whole on disk, in this process


def rng_state() -> dict[str, Tensor]:
    """Generator states of this process as plain uint8 tensors."""
    states = {"torch": torch.get_rng_state()}
    if torch.cuda.is_available():
        states["cuda"] = torch.cuda.get_rng_state()
    return states


def restore_rng(states: dict[str, Tensor]) -> None:
    torch.set_rng_state(states["torch"])
    if "cuda" in states and torch.cuda.is_available():
        torch.cuda.set_rng_state(states["cuda"])

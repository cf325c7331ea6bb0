"""Where a run stands: the few numbers that, with weights and optimizer, make it continue as if never stopped."""

from dataclasses import dataclass, field

import torch
from torch import Tensor


@dataclass
class RunState:
    """Counted in updates and in samples, so that batch size and rank count may change between runs.

    consumed_samples: trained on. data_position: where the next sample lies in the data's order, skipped ones included.
    left_behind: ranges of positions that were given up when a run went back. skipped: steps without an update.
    """

    iteration: int = 0
    consumed_samples: int = 0
    data_position: int = 0
    skipped: int = 0
    left_behind: list[tuple[int, int]] = field(default_factory=list)
    returns: tuple[int, ...] = ()  # steps gone back to in a row, all the same one
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

"""Do ranks that hold the same weight hold the same values? Asked at each save, before a drifted copy is kept.

Data-parallel ranks share all weights (not under ZeRO-3), tensor ranks the whole ones (norms, some biases), pipeline
ends tied ones.
"""

from collections import Counter, defaultdict

import torch
from torch import Tensor

from megatron.checkpointing.partitions import own_stretch, own_values
from megatron.checkpointing.together import Together
from megatron.errors import NumericsError
from megatron.mpu.parallel_state import ParallelState
from megatron.mpu.shard import shard_of


def check_replicas(parameters: list[torch.nn.Parameter], parallel: ParallelState) -> None:
    """Compare checksums of every weight over the ranks that hold it; a collective.

    Raises NumericsError on every rank, naming tensor and ranks, when two differ in any bit.
    """
    if parallel.world_size == 1:
        return
    own = {}
    for parameter in parameters:
        shard = shard_of(parameter)
        part = parallel.tp.rank if shard.dim is not None else None
        own[shard.name, part, own_stretch(parameter).start] = checksum(own_values(parameter))
    holders: dict[tuple[str, int | None, int], dict[int, int]] = defaultdict(dict)
    for rank, sums in enumerate(Together.of(parallel).gather(own)):
        for key, value in sums.items():
            holders[key][rank] = value
    for (name, *_), by_rank in holders.items():
        if len(set(by_rank.values())) > 1:
            raise NumericsError(_complaint(name, by_rank))


def checksum(value: Tensor) -> int:
    """A 64-bit sum over the bits of the values: any single flipped bit changes it."""
    flat = value.detach().contiguous().reshape(-1).view(torch.uint8)
    whole = flat.numel() // 4 * 4
    total = int(flat[:whole].view(torch.int32).sum(dtype=torch.int64)) if whole else 0
    return total + (int(flat[whole:].sum(dtype=torch.int64)) << 32)


def _complaint(name: str, by_rank: dict[int, int]) -> str:
    usual, count = Counter(by_rank.values()).most_common(1)[0]
    if 2 * count > len(by_rank):
        odd = [str(rank) for rank, value in by_rank.items() if value != usual]
        who = f"rank {', '.join(odd)} holds other values than the other {count} ranks"
    else:
        who = f"ranks {', '.join(map(str, by_rank))} hold different values"
    return (
        f"{who} of {name}, which must be equal in every bit; nothing is saved of this step. Memory or a link of that "
        "machine may be faulty: leave it out, and resume from the last checkpoint."
    )

"""The ledger of a whole run: one hash per step over the samples of all ranks."""

from collections.abc import Iterator
from typing import Any

import torch
import torch.distributed as dist

from megatron.data.batch import Batch
from megatron.data.ledger import Ledger, as_hex
from megatron.mpu.parallel_state import ParallelState


class StepLedger:
    """Adds up the ledgers of the data-parallel ranks of the first stage, which read what rank 0 reports."""

    def __init__(self, parallel: ParallelState) -> None:
        self._ledger, self._parallel = Ledger(), parallel

    def watch(self, batches: Iterator[Batch]) -> Iterator[Batch]:
        """The same batches, noted down as the engine takes them."""
        return self._ledger.watch(batches)

    def step(self) -> dict[str, Any]:
        """{"samples", "hash"} of the step that has just ended; the same for every layout of ranks."""
        total, count = self._ledger.take()
        parallel = self._parallel
        if parallel.dp_size > 1 and parallel.pp_rank == 0:
            device = "cuda" if dist.get_backend(parallel.data_group) == "nccl" else "cpu"
            # The ranks of a context group read the same samples: the first of them speaks for all.
            own = (total, count) if parallel.cp.rank == 0 else (0, 0)
            both = torch.tensor(own, dtype=torch.int64, device=device)
            dist.all_reduce(both, group=parallel.data_group)  # wraps round, as sums of hashes may
            total, count = both.tolist()
        return {"samples": count, "hash": as_hex(total)}
